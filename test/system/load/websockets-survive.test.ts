/** WebSockets outlive the workers, the supervisor and the process that serve them: the examples. */
import { once } from 'node:events'
import type { ExecutionContext } from 'ava'
import { WebSocket } from 'ws'
import { times } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { type Running, start, startFixture } from '../../helpers/process.ts'
import { example as pathOf } from '../../helpers/programs.ts'
import { testInCi } from '../../helpers/test.ts'

interface Report {
  failures: string[]
  pids: number[]
  messages: number
  /** Clients with a ping that was not answered. */
  missing?: number
}

const SOCKETS = times(12, 500)
const WORKERS = times(1, 2)
/** In ms: for a full run on a busy machine. */
const TIMEOUT = 600_000
/** Rounds of messages until all clients have been answered by new processes. */
const MOST_ROUNDS = 500

function example(t: ExecutionContext, name: string, ...args: (string | number)[]): Running {
  const running = start(process.execPath, [pathOf(name), ...args.map(String)])
  t.teardown(() => void running.child.kill('SIGKILL'))
  return running
}

class Clients {
  readonly #running: Running

  private constructor(running: Running) {
    this.#running = running
  }

  static async open(t: ExecutionContext, port: number): Promise<Clients> {
    const running = startFixture('websocket-clients', [`${port}`, `${SOCKETS}`])
    t.teardown(() => void running.child.kill('SIGKILL'))
    t.is(await running.line(), `${SOCKETS}`)
    return new Clients(running)
  }

  async #ask(command: string): Promise<Report> {
    this.#running.child.stdin!.write(`${command}\n`)
    return JSON.parse(await this.#running.line())
  }

  /** Until all are answered by these processes. */
  async answeredBy(t: ExecutionContext, pids: readonly number[]): Promise<void> {
    for (let rounds = 0; rounds < MOST_ROUNDS; rounds++) {
      const { failures, pids: answering } = await this.#ask('round')
      t.deepEqual(failures, [])
      if (failures.length > 0) throw new Error('a client was disconnected, or a message is lost')
      if (answering.every(pid => pids.includes(pid))) return
    }
    throw new Error(`the clients are not answered by ${pids}`)
  }

  /** Every message was answered, in order. */
  async end(t: ExecutionContext): Promise<void> {
    const { failures, messages, missing } = await this.#ask('end')
    t.deepEqual(failures, [])
    t.is(missing, 0)
    t.true(messages > 5 * SOCKETS, `${messages} messages`)
    this.#running.child.stdin!.end()
    await this.#running.exit
  }
}

/** The pids of its workers, which get ready. */
async function workersOf(t: ExecutionContext, running: Running): Promise<number[]> {
  const pids: number[] = []
  while (pids.length < WORKERS) {
    const line = await running.line()
    const [, pid] = /^slot \d: process (\d+) serves$/.exec(line) ?? []
    t.truthy(pid, line)
    pids.push(Number(pid))
  }
  return pids
}

testInCi(
  'WebSockets survive reloads, and a new supervisor in the place of the old one; no message is lost',
  async t => {
    t.timeout(TIMEOUT)
    const [path, port] = [socketPath(), await freePort()]
    const first = example(t, 'websockets-survive', path, port, WORKERS)
    const workers = await workersOf(t, first)
    t.is(await first.line(), `process ${first.child.pid} supervises`)
    const clients = await Clients.open(t, port)
    await clients.answeredBy(t, workers)
    for (let reloads = times(1, 20); reloads > 0; reloads--) {
      first.child.kill('SIGHUP')
      await clients.answeredBy(t, await workersOf(t, first))
    }

    const second = example(t, 'websockets-survive', path, port, WORKERS)
    const others = await workersOf(t, second)
    t.is(await second.line(), `process ${second.child.pid} supervises`)
    t.is(await first.line(), `process ${second.child.pid} takes over`)
    await clients.answeredBy(t, others)
    t.deepEqual(await first.exit, { code: 0, signal: null, stderr: '' }) // though all are open
    await clients.end(t)
    second.child.kill('SIGTERM')
    t.deepEqual(await second.exit, { code: 0, signal: null, stderr: '' })
  }
)

/** A client of ws. It claims to be one that moves, which it isn't. */
async function stranger(port: number): Promise<WebSocket & { heard: string[] }> {
  const headers = { 'x-resumes-websocket': 'undefined' }
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false, headers })
  const heard: string[] = []
  socket.on('message', text => void heard.push(`${text}`.slice(0, 30)))
  await once(socket, 'open')
  return Object.assign(socket, { heard })
}

testInCi(
  'an http server replaces itself, with its live WebSockets; a client that does not read stays, and loses nothing',
  async t => {
    t.timeout(TIMEOUT)
    const [path, port] = [socketPath(), await freePort()]
    let running = example(t, 'websockets-takeover', path, port)
    const pid = (): number => running.child.pid!
    t.is(await running.line(), `process ${pid()} serves, with 0 WebSockets of process none`)
    const clients = await Clients.open(t, port)
    await clients.answeredBy(t, [pid()])

    const moves = await stranger(port)
    moves.send('one')
    await once(moves, 'message')
    const large = await stranger(port)
    large.send(Buffer.alloc(1_100_000))
    t.is((await once(large, 'close'))[0], 1009)
    const stays = await stranger(port)
    stays.pause()
    for (let i = 1; i <= 200; i++) stays.send(`${i}:`.padEnd(70_000, 'x'))
    const stayed = `${pid()}`

    for (let takeovers = times(1, 20); takeovers > 0; takeovers--) {
      const predecessor = running
      running = example(t, 'websockets-takeover', path, port)
      t.is(
        await running.line(),
        `process ${pid()} serves, with ${SOCKETS + 1} WebSockets of process ${predecessor.child.pid}`
      )
      await clients.answeredBy(t, [pid()])
      if (stays.isPaused) {
        stays.resume()
        t.is((await once(stays, 'close'))[0], 1012)
      }
      t.deepEqual(await predecessor.exit, { code: 0, signal: null, stderr: '' })
    }
    t.true(stays.heard.length > 0)
    const before = stays.heard.map((_, index) => `${index + 1} ${stayed} ${index + 1}:`)
    t.deepEqual(
      stays.heard.map(text => text.replace(/x+$/, '')),
      before
    )
    moves.send('two')
    await once(moves, 'message')
    t.deepEqual(moves.heard, [`1 ${stayed} one`, `2 ${pid()} two`])
    moves.close()
    await once(moves, 'close')
    await clients.end(t)
    running.child.kill('SIGTERM')
    t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
  }
)
