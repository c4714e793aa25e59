/** The dispatch policy: who gets a connection, by which rule, and what becomes of it when nobody takes it. */
import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import * as http from 'node:http'
import { connect, type Socket } from 'node:net'
import * as tls from 'node:tls'
import type { ExecutionContext } from 'ava'
import type { BindSpec } from '../../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../../src/index.ts'
import { native } from '../../../src/os/native.ts'
import { MAX_PERMITS, MAX_UNCONFIRMED } from '../../../src/prefork/control/control.ts'
import type { Dispatch, Route, Routed, Supervisor } from '../../../src/prefork/index.ts'
import { DispatchedListener } from '../../../src/prefork/listen/dispatched-listener.ts'
import type { ListenerEvents } from '../../../src/prefork/listen/listener.ts'
import type { Recipient } from '../../../src/prefork/listen/recipient.ts'
import { bind } from '../../../src/serving/bound-socket.ts'
import { connect as connectStream } from '../../../src/stream/index.ts'
import { patched } from '../../helpers/channels.ts'
import { serverName } from '../../helpers/client-hello.ts'
import { isFull, times } from '../../helpers/full.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { startFixture, start as startProgram } from '../../helpers/process.ts'
import { fixture, only, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'
import { clientKey } from '../../helpers/tls.ts'

const TCP: BindSpec = { port: 0, host: '127.0.0.1' }

interface Options {
  workers: number
  /** Default: `lines`, on TCP. */
  listeners?: Record<string, BindSpec>
  /** Listeners of other servers than plain ones. */
  kinds?: Record<string, 'tls' | 'http' | 'descriptors'>
  deaf?: Record<string, number[]>
  most?: Record<string, Record<number, number>>
}

/** Workers of the fixture `lines`, ready. One that dies is not replaced. */
function dispatching(
  t: ExecutionContext,
  dispatch: Dispatch['dispatch'] | Dispatch,
  { workers, listeners = { lines: TCP }, kinds = {}, ...worker }: Options,
  body: (supervisor: Supervisor) => Promise<void>
): Promise<void> {
  const plain = Object.fromEntries(Object.keys(listeners).map(name => [name, 'plain']))
  const options = {
    entry: fixture('lines'),
    spawn: { args: [JSON.stringify({ kinds: { ...plain, ...kinds }, ...worker })] },
    listeners,
    workers,
    balance: typeof dispatch === 'object' ? dispatch : { dispatch },
    hangTimeout: 0, // some are suspended
    restart: () => ({ restart: true, delay: 60_000 }) as const
  }
  return supervising(t, options, async supervisor => {
    await supervisor.start()
    await body(supervisor)
  })
}

function reach(supervisor: Supervisor, listener = 'lines', localAddress?: string): Socket {
  const address = supervisor.address(listener)
  if ('path' in address) return connect(address.path)
  return connect({ host: '127.0.0.1', port: address.port, ...(localAddress === undefined ? {} : { localAddress }) })
}

/** What a connection is answered, up to its end: `slot/id what`. '' if it is closed without an answer. */
async function answer(socket: Socket | tls.TLSSocket): Promise<string> {
  let text = ''
  socket.setEncoding('latin1').on('data', part => {
    text += part
  })
  socket.on('error', () => {}) // closed with something unread
  await new Promise(resolve => socket.once('close', resolve))
  return text
}

/** The answer to a line on a connection of its own. */
function ask(supervisor: Supervisor, listener?: string, line = 'hi\n', localAddress?: string): Promise<string> {
  const socket = reach(supervisor, listener, localAddress)
  socket.write(line)
  return answer(socket)
}

async function askMany(supervisor: Supervisor, count: number, listener?: string): Promise<string[]> {
  return Promise.all(Array.from({ length: count }, () => ask(supervisor, listener)))
}

/** Connections. */
async function wave(supervisor: Supervisor, count: number, listener?: string): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => reach(supervisor, listener))
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  return sockets
}

/** Thousands that ask: not so many at once that the queue of the kernel is full. They are connected when this resolves. */
async function crowd(supervisor: Supervisor, count: number): Promise<Promise<string>[]> {
  const answers: Promise<string>[] = []
  while (answers.length < count)
    for (const socket of await wave(supervisor, Math.min(200, count - answers.length))) {
      socket.write('hi\n')
      answers.push(answer(socket))
    }
  return answers
}

/** Of answers: how many by slot. */
function bySlot(answers: readonly string[], slots: number): number[] {
  return Array.from({ length: slots }, (_, slot) => answers.filter(text => text.startsWith(`${slot}/`)).length)
}

/** How many have the right answer. */
function answered(answers: readonly string[]): number {
  return answers.filter(text => /^\d\/\d+ hi\n$/.test(text)).length
}

function pidOf(supervisor: Supervisor, slot: number): number {
  return supervisor.workers.find(worker => worker.slot === slot)!.pid!
}

function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

/** Suspends workers: all, or that of a slot. */
function suspend(supervisor: Supervisor, slot?: number): { resume(): void } {
  const pids = supervisor.workers.filter(worker => slot === undefined || worker.slot === slot).map(({ pid }) => pid!)
  for (const pid of pids) process.kill(pid, 'SIGSTOP')
  return {
    resume: () => {
      for (const pid of pids) process.kill(pid, 'SIGCONT')
    }
  }
}

/** How many connections each of the workers that live has had. */
function served(supervisor: Supervisor): Promise<number[]> {
  return Promise.all(supervisor.workers.map(({ channel }) => channel.request<number>('served?')))
}

/** Until so many connections are open, by worker, as far as the supervisor has heard. */
async function opened(supervisor: Supervisor, ...expected: number[]): Promise<void> {
  await until(() => String(supervisor.workers.map(one => one.connections)) === String(expected), `${expected} open`)
  await served(supervisor) // what they had to say before is heard
}

/** Counts the connections that the workers of some slots have from now on. */
async function counter(supervisor: Supervisor, slots: readonly number[]): Promise<() => Promise<number>> {
  const channels = supervisor.workers.filter(({ slot }) => slots.includes(slot)).map(({ channel }) => channel)
  const count = async (): Promise<number> =>
    sum(await Promise.all(channels.map(channel => channel.request<number>('served?'))))
  const before = await count()
  return async () => (await count()) - before
}

/** Until it has counted so many, and not more. */
async function reaches(t: ExecutionContext, counted: () => Promise<number>, expected: number): Promise<void> {
  let now = 0
  while (now < expected) now = await counted()
  t.is(now, expected)
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((all, one) => all + one, 0)
}

testInCi(
  'round-robin: even on each kind of listener, and among those who serve it; workers that do nothing keep nobody waiting',
  async t => {
    const listeners = {
      lines: TCP,
      unix: { path: socketPath() },
      everybody: { path: socketPath(), mode: 0o666 },
      given: await Descriptor.bind(TCP),
      some: TCP
    }
    await dispatching(t, 'round-robin', { workers: 3, listeners, deaf: { some: [1] } }, async supervisor => {
      await isEven(t, supervisor)
      t.deepEqual(bySlot(await askMany(supervisor, 20, 'some'), 3), [10, 0, 10])
      await fullQueue(t, supervisor)
      await uncounted(t, supervisor)
      await blockedStop(t, supervisor)
      await stopServes(t, supervisor)
    })
  }
)

async function isEven(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  for (const [index, listener] of ['lines', 'unix', 'everybody', 'given'].entries()) {
    t.deepEqual(bySlot(await askMany(supervisor, 60, listener), 3), [20, 20, 20], listener)
    for (let i = 0; i < 3; i++) await ask(supervisor, listener)
    t.deepEqual(await served(supervisor), Array(3).fill(21 * (index + 1)), listener)
  }
}

/** A listener whose queue is never empty keeps no other listener from being served. */
async function fullQueue(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  const { port: busy } = supervisor.address('lines') as { port: number }
  const own = new Int32Array(2)
  const isBusy = (fd: number): boolean => native.inetName(fd, false, own, Buffer.alloc(64)) >= 0 && own[1] === busy
  await patched(
    'queued',
    original => fd => original(fd) + (isBusy(fd) ? 1 : 0),
    async () => {
      t.is(answered([await ask(supervisor)]), 1)
      for (let i = 0; i < 5; i++) t.is(answered([await ask(supervisor, 'given')]), 1)
    }
  )
}

const EAGAIN = -11

/** A kernel that does not count the queue: all are accepted; a worker that is blocked keeps nobody waiting. */
async function uncounted(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  for (const blocked of [false, true]) {
    const suspended = blocked ? suspend(supervisor, 0) : undefined
    await patched(
      'queued',
      original => fd => (original(fd) > 0 ? EAGAIN : 0),
      async () => {
        const answers = await askMany(supervisor, 60)
        t.is(answered(answers), 60)
        const [first, ...others] = bySlot(answers, 3)
        t.is(first! > 0, !blocked)
        t.true(others.every(count => count > 0))
      }
    )
    suspended?.resume()
  }
}

/** A worker that is told to stop, and is blocked, keeps nobody waiting. */
async function blockedStop(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  const removed = suspend(supervisor, 2)
  const asking = await crowd(supervisor, 40)
  const scaled = supervisor.scale(2)
  const answers = await Promise.all(asking)
  t.is(answered(answers), 40)
  t.is(bySlot(answers, 3)[2], 0)
  removed.resume()
  await scaled
}

/** stop(): what had come before is served. */
async function stopServes(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  const suspended = suspend(supervisor)
  const count = 400
  const answers = await crowd(supervisor, count)
  const stopped = supervisor.stop()
  suspended.resume()
  t.is(answered(await Promise.all(answers)), count)
  await stopped
}

testInCi(
  'least-connections goes by what is open, also if others accept from the listener; at a reload every connection is answered',
  async t => {
    const given = await Descriptor.bind(TCP)
    const copy = given.dup()
    const options = { workers: 2, listeners: { lines: TCP, given }, most: { lines: { 1: 3 } } }
    await dispatching(t, 'least-connections', options, async supervisor => {
      await goesByOpen(t, supervisor)
      await othersAccept(t, supervisor, copy)
      await reloads(t, supervisor)
    })
    copy.close()
  }
)

/** Those that have closed, or that the server did not want, do not count. */
async function goesByOpen(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  const held: Socket[] = []
  for (let i = 0; i < 6; i++) held.push(reach(supervisor))
  await opened(supervisor, 3, 3)
  const answers = held.map(socket => answer(socket))
  // Worker 1 takes no more of them, and closes them at once
  t.deepEqual(bySlot(await askMany(supervisor, 8), 2), [4, 0])
  await opened(supervisor, 3, 3)
  for (const socket of held) socket.write('bye\n')
  const slots = (await Promise.all(answers)).map(text => text[0])
  t.deepEqual(slots.toSorted(), ['0', '0', '0', '1', '1', '1'])
  await opened(supervisor, 0, 0)

  const [first, second, third] = [reach(supervisor), reach(supervisor), reach(supervisor)]
  await until(() => sum(supervisor.workers.map(one => one.connections)) === 3, 'three are open')
  const fewer = supervisor.workers[0]!.connections === 1 ? 0 : 1
  t.is(bySlot([await ask(supervisor)], 2)[fewer], 1)
  for (const socket of [first, second, third]) socket.destroy()
  await opened(supervisor, 0, 0)
}

/** Somebody else accepts from the same listener: nobody waits for what was not there. */
async function othersAccept(t: ExecutionContext, supervisor: Supervisor, copy: Descriptor): Promise<void> {
  const accepted = new Int32Array(1)
  const suspended = suspend(supervisor)
  const [first] = await wave(supervisor, 1, 'given')
  for (let i = 0; i < 20; i++) await new Promise(setImmediate)
  t.is(native.acceptMany(copy.borrow(), accepted, 1, null), 1)
  suspended.resume()
  t.deepEqual(bySlot(await askMany(supervisor, 20, 'given'), 2), [10, 10])
  t.true(supervisor.workers.every(({ connections }) => connections >= 0))
  native.close(accepted[0]!)
  first!.destroy()
}

async function reloads(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  let reloading = true
  const clients = Array.from({ length: times(2, 8) }, async () => {
    let count = 0
    while (reloading) {
      t.regex(await ask(supervisor, 'given'), /^\d\/\d+ hi\n$/)
      count++
    }
    return count
  })
  for (let i = 0; i < times(1, 2); i++) await supervisor.reload()
  reloading = false
  for (const count of await Promise.all(clients)) t.true(count > 0)
}

testInCi('by address a client stays with its slot, over a reload too, and Unix clients go round-robin', async t => {
  const clients = Array.from({ length: 12 }, (_, index) => `127.0.0.${index + 2}`)
  const listeners = { lines: TCP, unix: { path: socketPath() } }
  await dispatching(t, 'address', { workers: 2, listeners }, async supervisor => {
    const slots = async (): Promise<string[]> =>
      (await Promise.all(clients.map(client => ask(supervisor, 'lines', 'hi\n', client)))).map(text => text[0]!)
    const before = await slots()
    t.is(new Set(before).size, 2)
    t.deepEqual(await slots(), before)
    t.deepEqual(bySlot(await askMany(supervisor, 10, 'unix'), 2), [5, 5])
    await supervisor.reload()
    await only(supervisor, 3, 4)
    t.deepEqual(await slots(), before)
  })
})

testInCi(
  'a route function: by what a connection says in any protocol; those that say nothing, and workers that take nothing, keep nobody from being served',
  async t => {
    const listeners: Record<string, BindSpec> = {
      ...Object.fromEntries(['lines', 'first', 'odd', 'tls', 'http', 'silent', 'stops'].map(name => [name, TCP])),
      unix: { path: socketPath() },
      descriptors: { path: socketPath() }
    }
    const routes: Record<string, Route> = {}
    const dispatch: Route = (connection, workers) => routes[connection.listener]!(connection, workers)
    const options = {
      workers: 2,
      listeners,
      kinds: { tls: 'tls', http: 'http', descriptors: 'descriptors' } as const
    }
    await dispatching(t, { dispatch, maxHead: 2048, headTimeout: 60_000 }, options, async supervisor => {
      await readsHead(t, supervisor, routes)
      await oddAnswers(t, supervisor, routes)
      await byServerName(t, supervisor, routes)
      await byCookie(t, supervisor, routes)
      await withDescriptors(t, supervisor, routes)
      await silence(t, supervisor, routes)
      await accepts(t, supervisor, routes)
      await stopsInRoute(t, supervisor, routes)
    })
  }
)

type Routes = Record<string, Route>

/** It sees who comes and what it says, is asked again when there is more, and the worker reads it all. */
async function readsHead(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  const seen: (Omit<Routed, 'head'> & { head: string })[] = []
  const slots: number[][] = []
  routes.lines = routes.unix = ({ head, ...connection }, workers) => {
    seen.push({ ...connection, head: String(head) })
    slots.push(workers.map(({ slot }) => slot))
    const [, slot] = /^to (\d)\n/.exec(String(head)) ?? []
    return slot === undefined ? 'more' : Number(slot)
  }
  const socket = reach(supervisor)
  socket.write('to')
  await until(() => seen.length === 1, 'asked')
  socket.write(' 1\n')
  t.is(await answer(socket), '1/2 to 1\n')
  const common = { listener: 'lines', ended: false, remoteAddress: '127.0.0.1' }
  t.deepEqual(seen, [
    { ...common, head: 'to' },
    { ...common, head: 'to 1\n' }
  ])
  t.deepEqual(slots, Array(2).fill([0, 1]))
  for (let i = 0; i < 6; i++)
    t.is(await ask(supervisor, 'lines', `to ${i % 2}\n`), `${i % 2}/${1 + (i % 2)} to ${i % 2}\n`)
  const half = reach(supervisor)
  half.end('no line')
  t.regex(await answer(half), /^\d\/\d no line$/)
  t.like(seen.at(-1), { head: 'no line', ended: true })
  seen.length = 0
  t.is(await ask(supervisor, 'unix', 'to 1\n'), '1/2 to 1\n')
  t.deepEqual(seen, [{ listener: 'unix', ended: false, head: 'to 1\n' }])
}

/** What it may answer besides: it is the turn of another then, and routeFailed tells what it has thrown. */
async function oddAnswers(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  const answers: unknown[] = [undefined, -1, 2, 0.5, Number.NaN, Infinity, '1', null, {}, Promise.resolve(1)]
  const failures: unknown[] = []
  routes.odd = (): never => {
    if (answers.length === 0) throw new Error('no idea')
    return answers.shift() as never
  }
  supervisor.on('routeFailed', error => void failures.push((error as Error).message))
  const got: string[] = []
  for (let i = 0; i < 12; i++) got.push(await ask(supervisor, 'odd'))
  t.deepEqual(bySlot(got, 2), [6, 6])
  t.deepEqual(failures, ['no idea', 'no idea'])
}

/** By the server name of TLS, which the worker speaks. */
async function byServerName(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  routes.tls = ({ head, ended }) => {
    const name = serverName(head)
    if (name === undefined && !ended) return 'more'
    return ['a.test', 'b.test'].indexOf(name ?? '')
  }
  const { port } = supervisor.address('tls') as { port: number }
  for (const [slot, servername] of ['a.test', 'b.test'].entries())
    for (let i = 0; i < 3; i++) {
      const socket = tls.connect({ ...clientKey, host: '127.0.0.1', port, servername })
      socket.write('hi\n')
      t.is(await answer(socket), `${slot}/${slot + 1} hi\n`)
    }
}

/** By a cookie; of a kept connection only the first request is seen. */
async function byCookie(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  let asked = 0
  routes.http = ({ head, ended }) => {
    asked++
    const text = String(head)
    if (!text.includes('\r\n\r\n') && !ended) return 'more'
    return Number(/^cookie:.*\bslot=(\d+)/im.exec(text)?.[1] ?? -1)
  }
  const { port } = supervisor.address('http') as { port: number }
  const get = async (slot: number, agent: http.Agent): Promise<string> => {
    const request = http.get({ host: '127.0.0.1', port, agent, headers: { cookie: `slot=${slot}` } })
    const [response] = await once(request, 'response')
    let text = ''
    for await (const part of response) text += part
    return text
  }
  const once1 = new http.Agent({ keepAlive: false })
  for (const slot of [1, 0, 0, 1]) t.is(await get(slot, once1), `${slot}/${slot + 1}`)
  asked = 0
  const kept = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.deepEqual([await get(1, kept), await get(0, kept), await get(0, kept)], ['1/2', '1/2', '1/2'])
  t.is(asked, 1)
  kept.destroy()
}

/** Descriptors in the first message of a Unix client are the worker’s. */
async function withDescriptors(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  routes.descriptors = ({ head }) => (head.length === 0 ? 'more' : 1)
  const { path } = supervisor.address('descriptors') as { path: string }
  const client = await connectStream(path)
  const passengers = [Descriptor.openSync('/dev/null'), Descriptor.openSync('/dev/null')]
  client.writeWithDescriptors('hi', passengers)
  const [text] = await once(client, 'data')
  t.is(String(text), '2')
  client.destroy()
  await once(client, 'close')
}

/** Hundreds that say nothing keep nobody from being served. The tests of first-bytes hold thousands. */
async function silence(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  routes.silent = ({ head, ended }) => (head.length === 0 && !ended ? 'more' : undefined)
  const before = native.held()
  const silent: Socket[] = []
  const waves = times(2, 10)
  for (let i = 0; i < waves; i++) silent.push(...(await wave(supervisor, 200, 'silent')))
  await until(() => native.held() === before + waves * 200, 'all are held')
  t.is(answered(await askMany(supervisor, 20, 'silent')), 20)
  for (const socket of silent) socket.destroy()
  await until(() => native.held() === before, 'the last of them is gone')
}

/** It stops the supervisor: who waits is served all the same. */
async function stopsInRoute(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  let stopped: Promise<void> | undefined
  routes.stops = ({ head, ended }) => {
    if (String(head) === 'stop\n') stopped = supervisor.stop()
    return head.length === 0 && !ended ? 'more' : undefined
  }
  const asking = Array.from({ length: 30 }, () => ask(supervisor, 'stops'))
  for (const text of await Promise.all([...asking, ask(supervisor, 'stops', 'stop\n')]))
    t.regex(text, /^\d\/\d (hi|stop)\n$/)
  await stopped
}

/** A worker that takes nothing gets no more than it may hold, and others get what a dying one had not taken. Leaves the one in slot 2. */
async function accepts(t: ExecutionContext, supervisor: Supervisor, routes: Routes): Promise<void> {
  // With a function the supervisor accepts; this one leaves it to whoever's turn it is
  routes.first = () => 0
  routes.lines = () => undefined
  await supervisor.scale(3)
  t.regex(await ask(supervisor, 'first'), /^0\/1/)
  await dies(t, supervisor, { slot: 0, others: [1, 2], count: 30, own: 10 })
  // The slot of a worker that is not ready is served by another one meanwhile
  t.regex(await ask(supervisor, 'first'), /^[12]\/[23]/)
  await noneTakes(t, supervisor)
  await oneTakesNothing(t, supervisor, 1, 2)
  // More than one message can hold; a full run: nearly all that one worker may hold
  const count = times(600, 2 * MAX_UNCONFIRMED - 100)
  await dies(t, supervisor, { slot: 1, others: [2], count, own: count / 2 })
}

/** Others get what a dying worker had been given (`own`) and not taken: all of it, once. */
async function dies(
  t: ExecutionContext,
  supervisor: Supervisor,
  { slot, others, count, own }: { slot: number; others: readonly number[]; count: number; own: number }
): Promise<void> {
  const taken = await counter(supervisor, others)
  const dying = pidOf(supervisor, slot)
  process.kill(dying, 'SIGSTOP')
  const asking = await crowd(supervisor, count)
  await reaches(t, taken, count - own)
  process.kill(dying, 'SIGKILL')
  const answers = await Promise.all(asking)
  t.is(answered(answers), count)
  t.is(bySlot(answers, 3)[slot], 0)
  t.is(await taken(), count)
}

/** If none takes anything the rest waits in the kernel, and goes on afterwards. */
async function noneTakes(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  const { workers } = supervisor
  const taken = await counter(supervisor, [1, 2])
  const suspended = suspend(supervisor)
  const before = native.held()
  const count = 400
  const answers = await crowd(supervisor, count)
  await until(() => native.held() - before >= workers.length, 'each has something to take')
  for (let i = 0; i < 100; i++) await new Promise(setImmediate)
  t.true(native.held() - before < count / 2, `${native.held() - before}`)
  suspended.resume()
  t.is(answered(await Promise.all(answers)), count)
  t.is(await taken(), count)
}

/** One that takes nothing gets no more than it may hold, and the other one gets the rest. */
async function oneTakesNothing(
  t: ExecutionContext,
  supervisor: Supervisor,
  slot: number,
  other: number
): Promise<void> {
  const taken = await counter(supervisor, [other])
  const suspended = suspend(supervisor, slot)
  const before = native.held()
  const asking = await crowd(supervisor, 2 * MAX_UNCONFIRMED + 200)
  await reaches(t, taken, MAX_UNCONFIRMED + 200)
  t.true(native.held() - before >= MAX_UNCONFIRMED)
  suspended.resume()
  const counts = bySlot(await Promise.all(asking), 3)
  t.deepEqual([counts[slot], counts[other]], [MAX_UNCONFIRMED, MAX_UNCONFIRMED + 200])
}

/** By these the supervisor only tells workers how many to accept. */
for (const rule of ['round-robin', 'least-connections'] as const)
  for (const [what, where] of [
    ['TCP', () => TCP],
    ['a Unix socket', () => ({ path: socketPath() })]
  ] as const) {
    // A normal run takes each rule and each kind of socket once
    if (!isFull && (rule === 'round-robin') !== (what === 'TCP')) continue
    testInCi(
      `${rule}, ${what}: a worker that accepts nothing keeps no more than its share of the queue, a dying one nothing`,
      async t => {
        await dispatching(t, rule, { workers: 3, listeners: { lines: where() } }, async supervisor => {
          await dies(t, supervisor, { slot: 0, others: [1, 2], count: 30, own: 10 })
          await opened(supervisor, 0, 0)
          await noneAccepts(t, supervisor)
          await opened(supervisor, 0, 0)
          await oneAcceptsNothing(t, supervisor, 1, 2)
          await opened(supervisor, 0, 0)
          await dies(t, supervisor, { slot: 1, others: [2], count: 2 * MAX_PERMITS + 50, own: MAX_PERMITS })
        })
      }
    )
  }

testInCi(
  'round-robin: a worker whose program blocks before it confirms what it has accepted keeps nobody else waiting; killed, it loses only these',
  async t => {
    const mark = temporaryPath('blocks')
    const entry = program(`
      import { existsSync } from 'node:fs'
      import { createServer } from 'node:net'
      const worker = await joinSupervisor()
      const nap = new Int32Array(new SharedArrayBuffer(4))
      let served = 0
      await worker.listen('lines', createServer(socket => {
        served++
        while (worker.slot === 0 && served > 1 && existsSync('${mark}')) Atomics.wait(nap, 0, 0, 5)
        socket.on('error', () => {}).resume().end(worker.slot + '/' + worker.id + ' hi\\n')
      }))
      worker.channel.serve(() => served)
      await worker.ready()`)
    const restart = () => ({ restart: true, delay: 60_000 }) as const
    const balance = { dispatch: 'round-robin' } as const
    const options = { entry, listeners: { lines: TCP }, workers: 2, balance, hangTimeout: 0, restart }
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      const counted = await counter(supervisor, [1])
      writeFileSync(mark, '')
      const [first, second] = [suspend(supervisor, 0), suspend(supervisor, 1)]
      // Each is told to accept one, and when the first one has confirmed its own, 4 more. It blocks with these
      const blocked = pidOf(supervisor, 0)
      const before = descriptorsOf(blocked)
      const asking = await crowd(supervisor, 10)
      first.resume()
      await until(() => descriptorsOf(blocked) >= before + 4, 'it has accepted them')
      second.resume()
      await reaches(t, counted, 5)
      asking.push(...(await crowd(supervisor, 30)))
      await reaches(t, counted, 5 + 15)
      process.kill(blocked, 'SIGKILL')
      const answers = await Promise.all(asking)
      t.deepEqual([...bySlot(answers, 2), answers.filter(text => text === '').length], [1, 20 + 15, 4])
    })
    rmSync(mark)
  }
)

/** If none accepts anything all wait in the kernel, and are served afterwards. */
async function noneAccepts(t: ExecutionContext, supervisor: Supervisor): Promise<void> {
  const suspended = suspend(supervisor)
  const before = native.held()
  const answers = await crowd(supervisor, 400)
  for (let i = 0; i < 100; i++) await new Promise(setImmediate)
  t.is(native.held(), before)
  suspended.resume()
  t.is(answered(await Promise.all(answers)), 400)
}

/** One that accepts nothing keeps no more than its share of the queue, and idles nobody. */
async function oneAcceptsNothing(
  t: ExecutionContext,
  supervisor: Supervisor,
  slot: number,
  other: number
): Promise<void> {
  const taken = await counter(supervisor, [other])
  const suspended = suspend(supervisor, slot)
  const before = native.held()
  const count = 2 * MAX_PERMITS + 150
  const asking = await crowd(supervisor, count)
  await reaches(t, taken, count - MAX_PERMITS)
  t.is(native.held(), before, 'the supervisor has none of them')
  // What is left is the other one's: nobody looks at it again and again
  let looks = 0
  await patched(
    'queued',
    original => fd => {
      looks++
      return original(fd)
    },
    async () => {
      for (let i = 0; i < 50; i++) t.is(await taken(), count - MAX_PERMITS)
    }
  )
  t.true(looks < 10, `${looks} looks`)
  suspended.resume()
  const counts = bySlot(await Promise.all(asking), 3)
  t.deepEqual([counts[slot], counts[other]], [MAX_PERMITS, count - MAX_PERMITS])
}

test('what a program throws when it is given a connection keeps no other from being served', async t => {
  const entry = program(`
    import { createServer } from 'node:net'
    const worker = await joinSupervisor()
    let thrown = 0
    process.on('uncaughtException', () => thrown++)
    const server = createServer(socket => socket.end('served'))
    server.maxConnections = 1
    server.on('drop', () => { throw new Error('one too many') })
    const most = new Set()
    server.on('connection', socket => { most.add(socket) })
    worker.channel.serve(() => thrown)
    await worker.listen('http', server)
    await worker.ready()`)
  await supervising(t, { entry, balance: { dispatch: 'round-robin' } }, async supervisor => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const [worker] = supervisor.workers
    const many = Array.from({ length: 20 }, () => answer(connect(port, '127.0.0.1')))
    const answers = await Promise.all(many)
    t.true(answers.includes('served'))
    t.is(
      await worker!.channel.request<number>({}),
      answers.filter(text => text === '').length,
      'each that was not served was dropped'
    )
    // It is still told to accept; one whose predecessor the server has not closed yet is dropped
    for (let i = 0; i < 5; i++) while ((await answer(connect(port, '127.0.0.1'))) !== 'served');
  })
})

testInCi('the supervisor accepts: at the limit of open files that rests, and goes on when there is room', async t => {
  const path = socketPath()
  const options = {
    entry: fixture('lines').pathname,
    listeners: { lines: { path } },
    workers: 1,
    hangTimeout: 0,
    heartbeat: 20, // nothing that it does then needs a descriptor, either
    balance: { dispatch: 'address' },
    spawn: { execArgv: [] }
  }
  const told = startFixture('prefork-told', [JSON.stringify(options)])
  const lines = async <Value>(id: number, name: string): Promise<Value> => {
    told.child.stdin!.write(`${JSON.stringify([id, name])}\n`)
    for (;;) {
      const line = JSON.parse(await told.line())
      if (line.id === id) return line.value
    }
  }
  await lines(1, 'start')
  const [open] = await lines<[number]>(3, 'open')
  // Only now, as Node raises its limit when it starts, and for the supervisor only
  const limit = async (number: number): Promise<void> => {
    const set = startProgram('prlimit', [`--pid=${told.child.pid}`, `--nofile=${number}:`])
    t.is((await set.exit).code, 0)
  }
  await limit(open)
  const sockets = Array.from({ length: 100 }, () => connect(path))
  const answers = sockets.map(answer)
  for (const socket of sockets) socket.write('hi\n')
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  const spent = cpuOf(told.child.pid!)
  const over = performance.now() + 1500
  await until(() => performance.now() > over, 'a while')
  t.true(cpuOf(told.child.pid!) - spent < 0.75, 'it is busy')
  await limit(open + 20)
  for (const text of await Promise.all(answers)) t.is(text, '0/1 hi\n')
  await lines(5, 'stop')
  told.child.stdin!.end()
  t.deepEqual(await told.exit, { code: 0, signal: null, stderr: '' })
})

/** CPU time of a process in seconds (proc(5)). */
function cpuOf(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

test('a worker that has lost its control channel is sent no connection, also by a listener that closes', async t => {
  const bound = await bind('web', { port: 0, host: '127.0.0.1' })
  const sent: number[] = []
  const worker = (slot: number, unreachable: boolean): Recipient => {
    const send = async (message: { connections: readonly Descriptor[] }): Promise<void> => {
      for (const connection of message.connections) connection.close()
      sent.push(slot)
    }
    const recipient = { slot, unreachable, ended: false, unconfirmed: 0, sent: 0, uses: new Map(), send }
    return recipient as Partial<Recipient> as Recipient
  }
  const events = { onAcceptError: error => t.fail(error.message) } as Partial<ListenerEvents> as ListenerEvents
  const listener = new DispatchedListener(bound, { dispatch: 'address' }, events)
  const lost = { unreachable: false }
  const reached = worker(1, false)
  listener.balance(
    [Object.defineProperty(worker(0, false), 'unreachable', { get: () => lost.unreachable }), reached],
    2
  )
  lost.unreachable = true // and nobody has balanced yet
  const { port } = listener.address() as { port: number }
  const clients = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const client = connect(port, '127.0.0.1').on('error', () => {})
      await once(client, 'connect')
      return client
    })
  )
  await listener.close({ exclusive: false, served: true, give: () => t.fail() })
  t.deepEqual([...new Set(sent)], [1])
  for (const client of clients) client.destroy()
})
