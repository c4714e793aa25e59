/** A worker gives its live connections to its replacement: at a reload, for a limit, and when another supervisor takes over. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'
import type { Balance, Supervisor, SupervisorOptions, WorkerInfo } from '../../../src/prefork/index.ts'
import { standaloneWorker } from '../../../src/prefork/worker/standalone-origin.ts'
import { isFull } from '../../helpers/full.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { stopped } from '../../helpers/processes.ts'
import { fixture, only, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

interface Orders {
  gives?: boolean
  inherits?: boolean
  accepts?: unknown
  freeze?: 'throw' | 'unencodable' | 'late' | 'hang' | 'wait'
  thaw?: 'throw'
  steps?: Record<string, 'KILL' | 'STOP'>
}

interface Told {
  event: 'freeze' | 'thaw' | 'inherit' | 'warning'
  of: any
  pid: number
}

const CANDIDATE = ['begin', 'offer', 'boot', 'freeze', 'state', 'commit', 'attach', 'mark']
const OWNER = ['answer begin', 'answer freeze', 'answer state', 'letGo', 'rollBack']
/** Steps at which the old worker's end waits for the new one. */
const WAITS = ['attach', 'mark']
/** `STOP, KILL`: it is killed when the other one has been told to stop. */
type How = 'KILL' | 'STOP' | 'STOP, KILL'

/** Orders for the fixture prefork-hands-over, and what its workers have told. */
class Fixture {
  readonly options: Partial<SupervisorOptions>
  told: Told[] = []
  readonly #path = temporaryPath('orders')

  constructor(options: Partial<SupervisorOptions> = {}) {
    this.order({})
    const spawn = { execArgv: ['--no-warnings'], args: [this.#path] } // it tells of warnings
    this.options = { entry: fixture('hands-over'), hangTimeout: 0, ...options, spawn }
  }

  order(orders: Orders): void {
    writeFileSync(this.#path, JSON.stringify(orders))
  }

  listenTo(supervisor: Supervisor): void {
    supervisor.on('state', ({ state, channel }) => {
      if (state === 'starting') channel.serve(({ value }) => void this.told.push(value as Told))
    })
  }

  events(pid: number): string[] {
    return this.told.filter(one => one.pid === pid).map(({ event }) => event)
  }

  of(event: Told['event']): any[] {
    return this.told.filter(one => one.event === event).map(({ of }) => of)
  }
}

async function withFixture(
  t: ExecutionContext,
  options: Partial<SupervisorOptions>,
  body: (supervisor: Supervisor, fixture: Fixture) => Promise<void>
): Promise<void> {
  const fixture = new Fixture(options)
  await supervising(t, fixture.options, async supervisor => {
    fixture.listenTo(supervisor)
    await supervisor.start()
    await body(supervisor, fixture)
  })
}

/** A connection that counts its lines. */
class Client {
  readonly socket: Socket
  #asked = 0
  #text = ''
  #closed = false
  #wake = (): void => {}

  private constructor(socket: Socket) {
    this.socket = socket
    socket.setEncoding('utf8').on('data', text => {
      this.#text += text
      this.#wake()
    })
    socket
      .on('error', () => {})
      .on('close', () => {
        this.#closed = true
        this.#wake()
      })
  }

  get #heard(): Promise<void> {
    return new Promise(resolve => {
      this.#wake = resolve
    })
  }

  static async to(supervisor: Supervisor): Promise<Client> {
    const { port } = supervisor.address('http') as { port: number }
    const client = new Client(connect(port, '127.0.0.1'))
    await once(client.socket, 'connect')
    return client
  }

  /** The pid of the worker that answers, which has all lines before; undefined: the connection is closed. */
  async ask(t: ExecutionContext): Promise<number | undefined> {
    const line = ++this.#asked
    this.socket.write(`line ${line}\n`)
    while (!this.#closed && !this.#text.includes('\n')) await this.#heard
    const [pid, ...rest] = this.#text.trim().split(' ')
    this.#text = ''
    if (pid === '') return undefined
    t.is(rest.join(' '), `${line} line ${line}`)
    return Number(pid)
  }

  async end(): Promise<void> {
    if (this.#closed) return
    const closed = once(this.socket, 'close')
    this.socket.end()
    await closed
  }
}

function current(supervisor: Supervisor, slot = 0): WorkerInfo & { pid: number } {
  const found = supervisor.workers.findLast(worker => worker.slot === slot && worker.state === 'ready')
  if (found?.pid === undefined) throw new Error(`no worker is ready in slot ${slot}`)
  return { ...found, pid: found.pid }
}

async function isStopping(supervisor: Supervisor, worker: number): Promise<void> {
  while (!supervisor.workers.some(({ pid, state }) => pid === worker && state === 'stopping'))
    await once(supervisor, 'state')
}

/** Descriptors that a worker has open, once it has closed what it is about to close. */
async function open({ channel }: WorkerInfo): Promise<number> {
  let [before, now] = [-1, -2]
  while (before !== now) [before, now] = [now, await channel.request<number>('open')]
  return now
}

const balances: Balance[] = isFull
  ? ['per-worker', 'shared', { dispatch: 'round-robin' }]
  : [{ dispatch: 'round-robin' }]

for (const balance of balances)
  testInCi(
    `${typeof balance === 'string' ? balance : 'dispatch'}: at a reload the replacement gets what freeze returns; its graceful stop waits for the connections in it`,
    async t => {
      await withFixture(t, { balance }, async (supervisor, fixture) => {
        const clients = [await Client.to(supervisor), await Client.to(supervisor)]
        const first = current(supervisor)
        for (const client of clients) t.is(await client.ask(t), first.pid)
        const held = await open(first)
        clients[1]!.socket.write('half a ') // a line; the rest of it comes later
        fixture.order({ accepts: ['v2'] })
        await supervisor.reload() // the old one has ended, though the connections are open
        const second = current(supervisor)
        t.is(await clients[0]!.ask(t), second.pid)
        clients[1]!.socket.write('line\n')
        await once(clients[1]!.socket, 'data')
        t.deepEqual(fixture.told, [
          { event: 'freeze', of: { accepts: ['v2'], context: ['accepts', 'signal'] }, pid: first.pid },
          { event: 'inherit', of: { from: 0, connections: 2, to: 0 }, pid: second.pid }
        ])
        t.is(await open(second), held, 'no pipe is left open')

        // While the first one freezes, only the replacement accepts
        fixture.order({ freeze: 'wait' })
        const reloading = supervisor.reload()
        await until(() => fixture.of('freeze').length === 2, 'freeze()')
        const third = current(supervisor)
        t.not(third.pid, second.pid)
        const others = await Promise.all(Array.from({ length: 8 }, () => Client.to(supervisor)))
        for (const client of others) t.is(await client.ask(t), third.pid)
        for (const client of others) await client.end()
        await second.channel.request('on')
        t.is(await clients[0]!.ask(t), third.pid)
        await clients[1]!.end()
        await reloading

        // Connections that were given count as the server's own
        const stopping = supervisor.stop()
        await isStopping(supervisor, third.pid)
        for (let i = 0; i < 20; i++) t.is(await clients[0]!.ask(t), third.pid)
        await clients[0]!.end()
        await stopping
      })
    }
  )

testInCi(
  'a replacement that does not ask gets nothing, and freeze is not called; a worker that fails to give drains',
  async t => {
    await withFixture(
      t,
      { handOverTimeout: 4000, stopTimeout: 10_000, killTimeout: 100 },
      async (supervisor, fixture) => {
        const cases: [orders: Orders, events: string[], warning?: RegExp][] = [
          [{ inherits: false }, []],
          [{ freeze: 'throw' }, ['freeze', 'warning'], /not now/],
          [{ freeze: 'unencodable' }, ['freeze', 'thaw', 'warning'], /function/],
          [{ freeze: 'late' }, ['freeze', 'thaw', 'warning'], /handOverTimeout/],
          [{ freeze: 'hang' }, ['freeze']],
          [{ gives: false }, ['freeze']], // that of its replacement: the one before gives
          [{}, []]
        ]
        for (const [orders, events, warning] of isFull ? cases : [cases[0]!, cases[3]!]) {
          fixture.told = []
          const old = current(supervisor)
          const client = await Client.to(supervisor)
          t.is(await client.ask(t), old.pid)
          fixture.order(orders)
          const reloading = supervisor.reload()
          await isStopping(supervisor, old.pid)
          const next = current(supervisor)
          const what = JSON.stringify(orders)
          const keeps = orders.freeze !== 'hang' && orders.gives !== false
          if (keeps) t.is(await client.ask(t), old.pid, what)
          else t.is(await client.ask(t), orders.gives === false ? next.pid : undefined, what)
          if (keeps) await client.end()
          await reloading
          if (!keeps) await client.end()
          t.deepEqual(fixture.events(old.pid), events, what)
          if (warning !== undefined) t.regex(fixture.of('warning').join(), warning)
          for (const of of fixture.of('thaw')) t.deepEqual(of, { same: true, open: true }, what)
        }
      }
    )
  }
)

for (const steps of isFull ? [CANDIDATE, OWNER] : [[...CANDIDATE, ...OWNER]])
  testInCi(
    `a worker is killed, or stopped, at a step from ${steps[0]} to ${steps.at(-1)}: one of the two has the connection, or it ended with its owner`,
    async t => {
      t.timeout(300_000) // for a full run on a busy machine
      const options = { handOverTimeout: 4000, restart: () => ({ restart: true, delay: 0 }) as const }
      await withFixture(t, options, async (supervisor, fixture) => {
        const all = steps.flatMap(step => {
          const hows: How[] = WAITS.includes(step) ? ['KILL', 'STOP', 'STOP, KILL'] : ['KILL', 'STOP']
          return hows.map(how => ({ step, how }))
        })
        const sample = ['mark KILL', 'attach STOP, KILL', 'answer state STOP']
        for (const { step, how } of isFull ? all : all.filter(one => sample.includes(`${one.step} ${one.how}`))) {
          fixture.told = []
          const what = `${step} ${how}`
          const old = current(supervisor)
          const client = await Client.to(supervisor)
          t.is(await client.ask(t), old.pid)
          const starting = once(supervisor, 'state') as Promise<[WorkerInfo]>
          fixture.order({
            steps: { [step]: how === 'KILL' ? 'KILL' : 'STOP' },
            ...(step === 'rollBack' ? { freeze: 'throw' } : {})
          })
          const reloading = supervisor.reload().catch(() => {}) // its own end is not asked for
          const [{ pid: next }] = await starting
          const victim = CANDIDATE.includes(step) ? next! : old.pid
          if (how !== 'KILL') {
            await stopped(victim)
            fixture.order({})
            // When the time of both is over. The old one has been told to stop, and knows no outcome yet if the new one has committed
            await isStopping(supervisor, old.pid)
            process.kill(victim, how === 'STOP' ? 'SIGCONT' : 'SIGKILL')
          } else {
            await until(
              () => !supervisor.workers.some(({ pid, state }) => pid === victim && state !== 'exited'),
              'its end'
            )
            fixture.order({})
          }
          const has = whose(step, how, { old: old.pid, next: next! })
          t.is(await client.ask(t), has, what)
          await client.end()
          await reloading
          await until(() => supervisor.workers.length === 1 && supervisor.workers[0]!.state === 'ready', 'one worker')
          t.deepEqual(
            fixture.of('thaw').filter(({ same, open }) => !same || !open),
            [],
            what
          )
          t.is(fixture.of('inherit').length, has === next ? 1 : 0, what)
        }
      })
    }
  )

/** The worker that has the connection when it is over; undefined: nobody. */
function whose(step: string, how: How, { old, next }: { old: number; next: number }): number | undefined {
  if (CANDIDATE.includes(step)) return how === 'STOP' && WAITS.includes(step) ? next : old
  if (step === 'letGo') return next
  return how === 'STOP' ? old : undefined
}

test('a worker that is replaced for a limit gives, too; what it gives counts for no limit of its replacement', async t => {
  const options = { limits: { requests: 3, jitter: 0 } }
  await withFixture(t, options, async (supervisor, fixture) => {
    const clients = await Promise.all(Array.from({ length: 3 }, () => Client.to(supervisor)))
    await only(supervisor, 2)
    const { pid } = current(supervisor)
    for (const client of clients) t.is(await client.ask(t), pid)
    t.deepEqual(fixture.of('inherit'), [{ from: 0, connections: 3, to: 0 }])
    const beats: number[] = []
    for (let beat = 0; beat < 3; beat++) {
      beats.push(supervisor.workers[0]!.requests)
      const { uptime } = supervisor.workers[0]!
      await until(() => (supervisor.workers[0]?.uptime ?? 0) > uptime + 60, 'a heartbeat')
    }
    t.deepEqual(beats, [0, 0, 0])
    const more = await Client.to(supervisor)
    t.is(await more.ask(t), pid)
    await until(() => supervisor.workers[0]!.requests === 1, 'the new one to count')
    t.is(supervisor.workers[0]!.id, 2)
    for (const client of [...clients, more]) await client.end()
  })
})

testInCi(
  'when another supervisor takes over, old slot i gives to new slot i mod n; onInherit is called for each',
  async t => {
    const takeover = socketPath()
    const [before, after] = isFull ? [3, 2] : [2, 1]
    const old = new Fixture({ takeover, workers: before })
    await supervising(t, old.options, async predecessor => {
      old.listenTo(predecessor)
      await predecessor.start()
      const pids = Array.from({ length: before }, (_, slot) => current(predecessor, slot).pid)
      const clients: Client[] = []
      const owners: number[] = []
      while (new Set(owners).size < before) {
        const client = await Client.to(predecessor)
        clients.push(client)
        owners.push((await client.ask(t))!)
      }
      const young = new Fixture({ takeover, workers: after }) // port 0 is whatever the other one has
      young.order({ accepts: 7 })
      await supervising(t, young.options, async successor => {
        young.listenTo(successor)
        await successor.start()
        await until(() => young.of('inherit').length === before, 'all to give')
        for (const [index, client] of clients.entries()) {
          const slot = pids.indexOf(owners[index]!) % after
          t.is(await client.ask(t), current(successor, slot).pid)
        }
        await until(() => predecessor.phase === 'stopped', 'the predecessor to end') // nothing is left there
        const count = (pid: number): number => owners.filter(owner => owner === pid).length
        t.deepEqual(
          young.of('inherit').toSorted((one, other) => one.from - other.from),
          pids.map((pid, from) => ({ from, connections: count(pid), to: from % after }))
        )
        t.deepEqual(old.of('freeze'), Array(before).fill({ accepts: 7, context: ['accepts', 'signal'] }))
        for (const client of clients) await client.end()
        await successor.stop()
      })
    })
  }
)

test('in a standalone program both do nothing; misuse throws', async t => {
  const worker = await standaloneWorker(new Map(), 0)
  let calls = 0
  const called = (): void => void calls++
  worker.handOver({ freeze: called, thaw: called })
  worker.onInherit(called)
  const code = 'ERR_PASSFD_INVALID_ARGUMENT'
  for (const wrong of [undefined, {}, { freeze: 1 }, { freeze: called, thaw: 1 }, { freeze: called, other: 1 }])
    t.throws(() => worker.handOver(wrong as never), { code })
  t.throws(() => worker.onInherit(undefined as never), { code })
  t.throws(() => worker.onInherit(called, { other: 1 } as never), { code })
  t.is(calls, 0)
  await worker.channel.close()
})
