import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { fileURLToPath } from 'node:url'
import { loadMissing, loadProgram, pm2Missing, websocketsMissing, websocketsProgram } from '../bench/missing.ts'
import { isFull } from './helpers/full.ts'
import { temporaryPath } from './helpers/path.ts'
import { start } from './helpers/process.ts'
import { childrenOf } from './helpers/processes.ts'
import { testIf, testInCiIf, until } from './helpers/test.ts'

const SHORT = { BENCH_WARM_UP: '20', BENCH_MEASURED: '20' }
const missing = loadMissing()

/** A contender, with a mark in its environment that all of its processes have. */
function contender(name: string, workload: string, more: NodeJS.ProcessEnv = {}, program = loadProgram) {
  const mark = randomUUID()
  const path = fileURLToPath(new URL(`../bench/peers/${name}.mjs`, import.meta.url))
  const running = start(process.execPath, [path, workload, 'near', program], {
    env: { ...process.env, ...SHORT, ...more, BENCH_MARK: mark }
  })
  return { ...running, alive: () => marked(mark) }
}

/** The ids of processes that have it in their environment. */
function marked(mark: string): string[] {
  return readdirSync('/proc').filter(pid => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(mark)
    } catch {
      return false // it has ended
    }
  })
}

type Entry = readonly [name: string, variant: string, modes: readonly string[], missing?: string | undefined]

const CONTENDERS: readonly Entry[] = [
  ['passfd-prefork', 'per-worker', ['close', 'keep-alive', 'bare']],
  ['passfd-prefork', 'shared', ['close']],
  ['passfd-prefork', 'dispatch', ['close', 'bare']],
  ['serve', 'passfd', ['close', 'keep-alive']],
  ['cluster', 'round-robin', ['close', 'keep-alive', 'bare']],
  ['cluster', 'none', ['close']],
  ['net-server', 'passfd', ['close', 'bare']],
  ['net-server', 'process-send', ['bare']],
  ['one-process', 'one', ['close']],
  ...(isFull ? [['pm2', 'cluster', ['close'], pm2Missing()] satisfies Entry] : [])
]

/** A normal run asks one of ours and a peer, once each. */
const asked = isFull ? CONTENDERS : CONTENDERS.filter(([, variant]) => ['dispatch', 'round-robin'].includes(variant))
const modesOf = (modes: readonly string[]): readonly string[] => (isFull ? modes : modes.slice(0, 1))

for (const [name, variant, modes, absent] of asked)
  testInCiIf(missing ?? absent, `${name} ${variant}: what it serves, and nothing is left of it`, async t => {
    for (const mode of modesOf(modes)) {
      const { child, line, exit, alive } = contender(name, `${variant}:${mode}`)
      t.is(await line(), 'ready')
      child.stdin!.write('\n')
      const said = await line()
      const [, rate, busiest] =
        /^(\d+(?:\.\d+)?) 0 cpu=\d+(?:\.\d+)?(?:e-\d+)?(?: busiest=(\d+(?:\.\d+)?))?$/.exec(said) ?? []
      t.true(Number(rate) > 0, said)
      if (mode === 'bare') t.is(busiest, undefined)
      else if (name !== 'one-process') t.true(Number(busiest) >= 50 && Number(busiest) < 100, said)
      else t.is(busiest, '100')
      child.stdin!.end()
      const { code, stderr } = await exit
      t.is(code, 0, stderr)
      t.deepEqual(alive(), [])
    }
  })

for (const [name, variant] of [
  ['standalone', 'passfd'],
  ...(isFull ? [['one-process', 'price'] as const] : [])
] as const)
  testInCiIf(missing, `${name} ${variant}: the CPU time of a request, and nothing is left of it`, async t => {
    for (const mode of ['close', 'keep-alive']) {
      const { child, line, exit, alive } = contender(name, `${variant}:${mode}:1`)
      t.is(await line(), 'ready')
      child.stdin!.write('\n')
      const said = await line()
      const [, price, rate] = /^(\d+(?:\.\d+)?) 0 rate=(\d+(?:\.\d+)?)$/.exec(said) ?? []
      t.true(Number(price) > 0 && Number(rate) > 0, said)
      child.stdin!.end()
      const { code, stderr } = await exit
      t.is(code, 0, stderr)
      t.deepEqual(alive(), [])
    }
  })

for (const [name, variant, mode, absent] of [
  ['passfd-prefork', 'per-worker', 'reload'],
  ...(isFull
    ? ([
        ['passfd-prefork', 'per-worker', 'quiet'],
        ['cluster', 'round-robin', 'reload'],
        ['cluster', 'none', 'reload'],
        ['pm2', 'cluster', 'reload', pm2Missing()]
      ] as const)
    : [])
] as const)
  testInCiIf(missing ?? absent, `${name} ${variant}, ${mode}: how long requests take meanwhile`, async t => {
    const { child, line, exit, alive } = contender(name, `${variant}:${mode}`, { BENCH_PAUSE: '10' })
    t.is(await line(), 'ready')
    child.stdin!.write('\n')
    const said = await line()
    const [, p99, lost, slowest, took] =
      /^(\d+(?:\.\d+)?) (\d+) slowest=(\d+(?:\.\d+)?) took=(\d+(?:\.\d+)?)$/.exec(said) ?? []
    t.true(Number(p99) > 0 && Number(slowest) >= Number(p99) && Number(took) > 0, said)
    if (name === 'passfd-prefork') t.is(lost, '0')
    child.stdin!.end()
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
    t.deepEqual(alive(), [])
  })

for (const [name, variant] of [
  ['passfd-prefork', 'per-worker'],
  ...(isFull ? ([['cluster', 'round-robin']] as const) : [])
] as const)
  testInCiIf(missing, `${name} ${variant}: three workers that are idle`, async t => {
    const { child, line, exit, alive } = contender(name, `${variant}:idle:3`)
    t.is(await line(), 'ready')
    child.stdin!.write('\n')
    const said = await line()
    const [, memory, cpu, all] = /^(\d+\.\d+) cpu=(\d+(?:\.\d+)?) all=(\d+(?:\.\d+)?)$/.exec(said) ?? []
    t.true(Number(memory) > 1 && Number(memory) < 1000, said)
    t.true(Number(all) >= Number(cpu), said)
    t.is(alive().length, 5)
    child.stdin!.end()
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
    t.deepEqual(alive(), [])
  })

const ECHOES = /^\d+(?:\.\d+)? p99=\d+(?:\.\d+)? memory=-?\d+(?:\.\d+)?$/

for (const variant of ['passfd', ...(isFull ? ['alone'] : [])])
  testInCiIf(websocketsMissing(), `WebSockets ${variant}: echoes on some, and all are open at the end`, async t => {
    const { child, line, exit, alive } = contender(
      'websockets',
      `${variant}:websocket:1`,
      { BENCH_SOCKETS: '50' },
      websocketsProgram
    )
    t.is(await line(), 'ready')
    child.stdin!.write('\n')
    t.regex(await line(), ECHOES)
    child.stdin!.end()
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
    t.deepEqual(alive(), [])
  })

testInCiIf(websocketsMissing(), 'WebSockets: it fails when the worker has ended', async t => {
  const { child, line, exit, alive } = contender(
    'websockets',
    'passfd:websocket:1',
    { BENCH_SOCKETS: '50' },
    websocketsProgram
  )
  t.is(await line(), 'ready')
  const parent = childrenOf(child.pid!).find(pid => childrenOf(pid).length > 0)!
  process.kill(childrenOf(parent)[0]!, 'SIGKILL')
  child.stdin!.end()
  const { code, stderr } = await exit
  t.is(code, 1)
  t.regex(stderr, /the server has closed a connection|Connection reset|Broken pipe/)
  await until(() => alive().length === 0, 'its processes end')
})

// That nothing is left of passfd's a normal run sees below, where a request is lost: it is ended in the same way
for (const [name, variant, , absent] of CONTENDERS.filter(
  ([, variant]) => variant !== 'none' && variant !== 'process-send' && (isFull || variant === 'round-robin')
))
  testInCiIf(missing ?? absent, `${name} ${variant}: nothing is left of it when it is ended`, async t => {
    const { child, line, exit, alive } = contender(name, `${variant}:close`)
    t.is(await line(), 'ready')
    t.true(alive().length >= 3)
    child.kill()
    await exit
    await until(() => alive().length === 0, 'its processes end')
  })

for (const [name, variant, said] of [
  ['passfd-prefork', 'dispatch', /requests failed: .*"tooLate":[1-9]/],
  ...(isFull ? ([['cluster', 'round-robin', /^\d+(\.\d+)? [1-9]\d* /]] as const) : [])
] as const)
  testInCiIf(missing, `${name}: a worker that has stopped loses requests`, async t => {
    const { child, line, exit, alive } = contender(name, `${variant}:close`, { BENCH_PATIENCE: '1000' })
    t.is(await line(), 'ready')
    const parent = childrenOf(child.pid!).find(pid => childrenOf(pid).length > 0)!
    const worker = childrenOf(parent)[0]!
    process.kill(worker, 'SIGSTOP')
    child.stdin!.write('\n')
    // Ours may lose none, so it fails; of a peer the losses are told
    if (name === 'cluster') t.regex(await line(), said)
    else child.stdin!.end()
    if (name === 'cluster') child.kill()
    const ended = once(child, 'exit')
    if (child.exitCode === null && child.signalCode === null) await ended
    process.kill(worker, 'SIGKILL')
    const { code, stderr } = await exit
    t.is(code, 1)
    if (name !== 'cluster') t.regex(stderr, said)
    await until(() => alive().length === 0, 'its processes end')
  })

for (const [signal, said] of [
  ['SIGKILL', /the parent (exited with SIGKILL|has ended)|clock_gettime|nothing was answered/],
  ...(isFull ? ([['SIGSTOP', /nothing was answered: .*"tooLate":64/]] as const) : [])
] as const)
  testInCiIf(missing, `a parent that has got ${signal} while it was measured: it fails`, async t => {
    const { child, line, exit, alive } = contender('one-process', 'one:close', { BENCH_PATIENCE: '300' })
    t.is(await line(), 'ready')
    process.kill(childrenOf(child.pid!)[0]!, signal)
    child.stdin!.end('\n')
    const { code, stderr } = await exit
    t.is(code, 1)
    t.regex(stderr, said)
    await until(() => alive().length === 0, 'its processes end')
  })

// --- load.c

interface Told {
  /** While the clock ran. */
  completed: number
  /** Before and after. */
  besides: number
  seconds: number
  cpu: number
  failed: Record<string, number>
  workers: Record<string, number>
  /** In ms, if paced. */
  p99?: number
  slowest?: number
}

/** What it says of 20 ms with a server, which is closed. `patience` ms is how long it waits for any answer. */
async function load(mode: string, server: Server, patience = 5000): Promise<Told> {
  const path = temporaryPath()
  await new Promise<void>(resolve => server.listen(mode === 'bare' ? path : { port: 0, host: '127.0.0.1' }, resolve))
  const [address, port] = mode === 'bare' ? [path, 0] : ['127.0.0.1', (server.address() as AddressInfo).port]
  const { child, line, exit } = start(loadProgram, [mode, 4, address, port, process.pid].map(String), {
    env: { ...process.env, BENCH_PATIENCE: String(patience) }
  })
  child.stdin!.end('20\n')
  const told = JSON.parse(await line()) as Told
  const { code, stderr } = await exit
  if (code !== 0) throw new Error(stderr)
  await new Promise(resolve => server.close(resolve))
  return told
}

const failures = ({ failed }: Told) => Object.entries(failed).filter(([, count]) => count > 0)
/** In ms: until its patience is over the load tries again and again, which would need a core. */
const PAUSE = 40
/** Answers what it is told to anything that it reads, and ends or breaks off the connection. */
const answering = (text: string, end: 'end' | 'resetAndDestroy' | undefined) =>
  createServer(socket => {
    socket.on('error', () => {}) // its other end resets it in the end
    const answer = () => {
      if (end === 'resetAndDestroy') socket.resetAndDestroy()
      else if (end === 'end') socket.end(text)
      else socket.write(text)
    }
    socket.once('data', () => setTimeout(answer, PAUSE))
  })
/** The same, without reading anything. */
const greeting = (text: string) =>
  createServer(socket => {
    socket.on('error', () => {})
    setTimeout(() => socket.end(text), PAUSE)
  })

for (const mode of ['close', 'keep-alive', 'paced', 'bare'])
  testIf(missing, `load ${mode}: counts what the server counts`, async t => {
    let served = 0
    const server =
      mode === 'bare'
        ? createServer(socket => {
            served++
            socket.destroy()
          })
        : createHttpServer((_, response) => {
            served++
            response.end(`${1 + (served & 1)}\n`)
          })
    const told = await load(mode, server)
    t.deepEqual(failures(told), [])
    t.is(told.completed + told.besides, served)
    if (mode === 'paced') t.true(told.p99! > 0 && told.slowest! >= told.p99!)
    if (mode === 'keep-alive') t.true(told.besides >= 4, 'the first on each connection goes unclocked')
    for (const [what, enough] of [
      ['completed', told.completed > 0],
      ['seconds', told.seconds >= 0.02],
      ['cpu', told.cpu > 0]
    ] as const)
      t.true(enough, `${what}: ${JSON.stringify(told)}`)
    const answers = Object.entries(told.workers)
    t.is(
      answers.reduce((sum, [, count]) => sum + count, 0),
      mode === 'bare' ? 0 : served
    )
    if (mode !== 'bare') t.deepEqual(answers.map(([pid]) => pid).sort(), ['1', '2'])
  })

const ANSWER = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'
for (const [what, kind, mode, server] of [
  ['a reset', 'reset', 'close', answering('', 'resetAndDestroy')],
  ['a reset', 'reset', 'keep-alive', answering('', 'resetAndDestroy')],
  ['the end', 'reset', 'keep-alive', answering('', 'end')],
  ['the end', 'cutShort', 'close', answering('', 'end')],
  ['half an answer', 'cutShort', 'close', answering(`${ANSWER}12`, 'end')],
  ['half an answer', 'cutShort', 'paced', answering(`${ANSWER}12`, 'end')],
  ['another status', 'wrong', 'close', answering('HTTP/1.1 503 Busy\r\n\r\n', 'end')],
  ['another status', 'wrong', 'keep-alive', answering('HTTP/1.1 503 Busy\r\n\r\n', undefined)],
  ['no process id', 'wrong', 'close', answering(`${ANSWER}who?\n`, 'end')],
  ['more than it says', 'wrong', 'close', answering(`${ANSWER}1234\n6`, 'end')],
  ['too much', 'wrong', 'close', answering('x'.repeat(5000), 'end')],
  ['a byte', 'wrong', 'bare', greeting('x')]
] as const)
  testInCiIf(missing, `load ${mode}: ${what} instead of an answer is ${kind}`, async t => {
    const told = await load(mode, server, 500)
    t.deepEqual(
      failures(told).map(([kind]) => kind),
      [kind]
    )
    t.is(told.completed, 0)
    t.deepEqual(told.workers, {})
  })

testIf(missing, 'load: nobody listens', async t => {
  const { child, line, exit } = start(loadProgram, ['close', '2', '127.0.0.1', '1', '0'], {
    env: { ...process.env, BENCH_PATIENCE: '500' }
  })
  child.stdin!.end('20\n')
  const told = JSON.parse(await line()) as Told
  t.deepEqual(
    failures(told).map(([kind]) => kind),
    ['refused']
  )
  t.is(told.cpu, 0)
  t.is((await exit).code, 0)
})
