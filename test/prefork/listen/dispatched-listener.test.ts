/** The dispatch policy: who gets a connection, by which rule, and what becomes of it when nobody takes it. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import * as http from 'node:http'
import { connect, type Socket } from 'node:net'
import * as tls from 'node:tls'
import type { ExecutionContext } from 'ava'
import type { BindSpec } from '../../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../../src/index.ts'
import { native } from '../../../src/os/native.ts'
import { MAX_PERMITS, MAX_UNCONFIRMED } from '../../../src/prefork/control/control.ts'
import type { Dispatch, Route, Routed, Supervisor, SupervisorOptions } from '../../../src/prefork/index.ts'
import { connect as connectStream } from '../../../src/stream/index.ts'
import { patched } from '../../helpers/channels.ts'
import { serverName } from '../../helpers/client-hello.ts'
import { isFull } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { startFixture, start as startProgram } from '../../helpers/process.ts'
import { fixture, only, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'
import { clientKey } from '../../helpers/tls.ts'

const TCP: BindSpec = { port: 0, host: '127.0.0.1' }

interface Options {
  workers?: number
  listener?: BindSpec
  worker?: object
  more?: Partial<SupervisorOptions>
}

/** Workers of the fixture `lines`, ready. */
function dispatching(
  t: ExecutionContext,
  dispatch: Dispatch['dispatch'] | Dispatch,
  { workers = 2, listener = TCP, worker = {}, more = {} }: Options,
  body: (supervisor: Supervisor) => Promise<void>
): Promise<void> {
  const options = {
    entry: fixture('lines'),
    spawn: { args: [JSON.stringify(worker)] },
    listeners: { lines: listener },
    workers,
    balance: typeof dispatch === 'object' ? dispatch : { dispatch },
    ...more
  }
  return supervising(t, options, async supervisor => {
    await supervisor.start()
    await body(supervisor)
  })
}

function reach(supervisor: Supervisor, localAddress?: string): Socket {
  const address = supervisor.address('lines')
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
function ask(supervisor: Supervisor, line = 'hi\n', localAddress?: string): Promise<string> {
  const socket = reach(supervisor, localAddress)
  socket.write(line)
  return answer(socket)
}

async function askMany(supervisor: Supervisor, count: number, line?: string): Promise<string[]> {
  return Promise.all(Array.from({ length: count }, () => ask(supervisor, line)))
}

/** Connections. */
async function wave(supervisor: Supervisor, count: number): Promise<Socket[]> {
  const sockets = Array.from({ length: count }, () => reach(supervisor))
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

function pidOf(supervisor: Supervisor, slot: number): number {
  return supervisor.workers.find(worker => worker.slot === slot)!.pid!
}

/** How many connections each of the workers that live has had. */
function served(supervisor: Supervisor): Promise<number[]> {
  return Promise.all(supervisor.workers.map(({ channel }) => channel.request<number>('served?')))
}

for (const [what, listener] of [
  ['TCP', () => TCP],
  ['a Unix socket', () => ({ path: socketPath() })],
  ['a Unix socket for everybody', () => ({ path: socketPath(), mode: 0o666 })],
  ['a Descriptor', () => Descriptor.bind(TCP)]
] as const)
  test(`round-robin is even: ${what}`, async t => {
    await dispatching(t, 'round-robin', { workers: 3, listener: await listener() }, async supervisor => {
      t.deepEqual(bySlot(await askMany(supervisor, 60), 3), [20, 20, 20])
      for (let i = 0; i < 3; i++) await ask(supervisor)
      t.deepEqual(await served(supervisor), [21, 21, 21])
    })
  })

test('least-connections goes by what is open: those that have closed, or that the server did not want, do not count', async t => {
  await dispatching(t, 'least-connections', { worker: { most: { 1: 3 } } }, async supervisor => {
    const open = (): Socket => reach(supervisor)
    const connections = async (...expected: number[]): Promise<void> => {
      await until(() => String(supervisor.workers.map(one => one.connections)) === String(expected), `${expected} open`)
      await served(supervisor) // what they had to say before is heard
    }
    const held: Socket[] = []
    for (let i = 0; i < 6; i++) held.push(open())
    await connections(3, 3)
    const answers = held.map(socket => answer(socket))
    // Worker 1 takes no more of them, and closes them at once
    t.deepEqual(bySlot(await askMany(supervisor, 8), 2), [4, 0])
    await connections(3, 3)
    for (const socket of held) socket.write('bye\n')
    const slots = (await Promise.all(answers)).map(text => text[0])
    t.deepEqual(slots.toSorted(), ['0', '0', '0', '1', '1', '1'])
    await connections(0, 0)

    const [first, second, third] = [open(), open(), open()]
    await until(() => supervisor.workers.reduce((sum, one) => sum + one.connections, 0) === 3, 'three are open')
    const fewer = supervisor.workers[0]!.connections === 1 ? 0 : 1
    t.is(bySlot([await ask(supervisor)], 2)[fewer], 1)
    for (const socket of [first, second, third]) socket.destroy()
    await connections(0, 0)
  })
})

test('by address a client stays with its slot, over a reload too, and Unix clients go round-robin', async t => {
  const clients = Array.from({ length: 12 }, (_, index) => `127.0.0.${index + 2}`)
  await dispatching(t, 'address', { workers: 3 }, async supervisor => {
    const slots = async (): Promise<string[]> =>
      (await Promise.all(clients.map(client => ask(supervisor, 'hi\n', client)))).map(text => text[0]!)
    const before = await slots()
    t.is(new Set(before).size, 3)
    t.deepEqual(await slots(), before)
    await supervisor.reload()
    await only(supervisor, 4, 5, 6)
    t.deepEqual(await slots(), before)
  })
  await dispatching(t, 'address', { listener: { path: socketPath() } }, async supervisor => {
    t.deepEqual(bySlot(await askMany(supervisor, 10), 2), [5, 5])
  })
})

test('a route function sees who comes and what it says, is asked again when there is more, and the worker reads it all', async t => {
  const seen: (Omit<Routed, 'head'> & { head: string })[] = []
  const slots: number[][] = []
  const route: Route = ({ head, ...connection }, workers) => {
    seen.push({ ...connection, head: String(head) })
    slots.push(workers.map(({ slot }) => slot))
    const [, slot] = /^to (\d)\n/.exec(String(head)) ?? []
    return slot === undefined ? 'more' : Number(slot)
  }
  await dispatching(t, route, { workers: 3 }, async supervisor => {
    const socket = reach(supervisor)
    socket.write('to')
    await until(() => seen.length === 1, 'asked')
    socket.write(' 2\n')
    t.is(await answer(socket), '2/3 to 2\n')
    const common = { listener: 'lines', ended: false, remoteAddress: '127.0.0.1' }
    t.deepEqual(seen, [
      { ...common, head: 'to' },
      { ...common, head: 'to 2\n' }
    ])
    t.deepEqual(slots, Array(2).fill([0, 1, 2]))
    for (let i = 0; i < 6; i++) t.regex(await ask(supervisor, `to ${i % 3}\n`), new RegExp(`^${i % 3}/.*to ${i % 3}`))
    const half = reach(supervisor)
    half.end('no line')
    t.regex(await answer(half), /^\d\/\d no line$/)
    t.like(seen.at(-1), { head: 'no line', ended: true })
  })
  seen.length = 0
  await dispatching(t, route, { listener: { path: socketPath() } }, async supervisor => {
    t.is(await ask(supervisor, 'to 1\n'), '1/2 to 1\n')
    t.deepEqual(seen, [{ listener: 'lines', ended: false, head: 'to 1\n' }])
  })
})

test('what a route function may answer besides: it is the turn of another then, and routeFailed tells what it has thrown', async t => {
  const answers: unknown[] = [undefined, -1, 2, 0.5, Number.NaN, Infinity, '1', null, {}, Promise.resolve(1)]
  const failures: unknown[] = []
  const route = (): never => {
    if (answers.length === 0) throw new Error('no idea')
    return answers.shift() as never
  }
  await dispatching(t, route, {}, async supervisor => {
    supervisor.on('routeFailed', error => void failures.push((error as Error).message))
    const got: string[] = []
    for (let i = 0; i < 12; i++) got.push(await ask(supervisor))
    t.deepEqual(bySlot(got, 2), [6, 6])
    t.deepEqual(failures, ['no idea', 'no idea'])
  })
})

test('the slot of a worker that is not ready is served by another one meanwhile', async t => {
  const more = { restart: () => ({ restart: true, delay: 60_000 }) as const }
  await dispatching(
    t,
    () => 0,
    { more },
    async supervisor => {
      t.regex(await ask(supervisor), /^0\/1/)
      process.kill(pidOf(supervisor, 0), 'SIGKILL')
      await only(supervisor, 2)
      t.regex(await ask(supervisor), /^1\/2/)
    }
  )
})

test('a listener that only some workers serve is theirs', async t => {
  await dispatching(t, 'round-robin', { workers: 3, worker: { deaf: [1] } }, async supervisor => {
    t.deepEqual(bySlot(await askMany(supervisor, 20), 3), [10, 0, 10])
  })
})

test('by the server name of TLS, which the worker speaks', async t => {
  const route: Route = ({ head, ended }) => {
    const name = serverName(head)
    if (name === undefined && !ended) return 'more'
    return ['a.test', 'b.test'].indexOf(name ?? '')
  }
  await dispatching(t, route, { worker: { kind: 'tls' } }, async supervisor => {
    const { port } = supervisor.address('lines') as { port: number }
    for (const [slot, servername] of ['a.test', 'b.test'].entries())
      for (let i = 0; i < 3; i++) {
        const socket = tls.connect({ ...clientKey, host: '127.0.0.1', port, servername })
        socket.write('hi\n')
        t.is(await answer(socket), `${slot}/${slot + 1} hi\n`)
      }
  })
})

test('by a cookie; of a kept connection only the first request is seen', async t => {
  let asked = 0
  const route: Route = ({ head, ended }) => {
    asked++
    const text = String(head)
    if (!text.includes('\r\n\r\n') && !ended) return 'more'
    return Number(/^cookie:.*\bslot=(\d+)/im.exec(text)?.[1] ?? -1)
  }
  const options = { entry: fixture('obeys'), listeners: { http: TCP }, workers: 2, balance: { dispatch: route } }
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const get = async (slot: number, agent: http.Agent): Promise<string> => {
      const request = http.get({ host: '127.0.0.1', port, agent, headers: { cookie: `slot=${slot}` } })
      const [response] = await once(request, 'response')
      let text = ''
      for await (const part of response) text += part
      return text.slice(0, 3)
    }
    const once1 = new http.Agent({ keepAlive: false })
    for (const slot of [1, 0, 0, 1]) t.is(await get(slot, once1), `${slot} ${slot + 1}`)
    asked = 0
    const kept = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.deepEqual([await get(1, kept), await get(0, kept), await get(0, kept)], ['1 2', '1 2', '1 2'])
    t.is(asked, 1)
    kept.destroy()
  })
})

test('descriptors in the first message of a Unix client are the worker’s', async t => {
  const path = socketPath()
  const route: Route = ({ head }) => (head.length === 0 ? 'more' : 1)
  await dispatching(t, route, { listener: { path }, worker: { kind: 'descriptors' } }, async () => {
    const client = await connectStream(path)
    const passengers = [Descriptor.openSync('/dev/null'), Descriptor.openSync('/dev/null')]
    client.writeWithDescriptors('hi', passengers)
    const [text] = await once(client, 'data')
    t.is(String(text), '2')
    client.destroy()
    await once(client, 'close')
  })
})

test('thousands that say nothing keep nobody from being served', async t => {
  const route: Route = ({ head, ended }) => (head.length === 0 && !ended ? 'more' : undefined)
  await dispatching(t, { dispatch: route, maxHead: 64, headTimeout: 60_000 }, {}, async supervisor => {
    const before = native.held()
    const silent: Socket[] = []
    for (let i = 0; i < 10; i++) silent.push(...(await wave(supervisor, 200)))
    await until(() => native.held() === before + 2000, 'all are held')
    t.is((await askMany(supervisor, 20)).filter(text => text.endsWith('hi\n')).length, 20)
    for (const socket of silent) socket.destroy()
    await until(() => native.held() === before, 'the last of them is gone')
  })
})

/** With a function the supervisor accepts; this one leaves it to whoever's turn it is. */
const ACCEPTS: Route = () => undefined
const unix = (): Options => ({ listener: { path: socketPath() } })

test('the supervisor accepts: a worker that takes nothing gets no more than it may hold, and the others get the rest', async t => {
  await dispatching(t, ACCEPTS, {}, async supervisor => {
    const stopped = pidOf(supervisor, 0)
    process.kill(stopped, 'SIGSTOP')
    const before = native.held()
    const asking = await crowd(supervisor, 2 * MAX_UNCONFIRMED + 200)
    const other = supervisor.workers[1]!.channel
    let taken = 0
    while (taken < MAX_UNCONFIRMED + 200) taken = await other.request<number>('served?')
    t.is(taken, MAX_UNCONFIRMED + 200)
    t.true(native.held() - before >= MAX_UNCONFIRMED)
    process.kill(stopped, 'SIGCONT')
    const answers = await Promise.all(asking)
    t.deepEqual(bySlot(answers, 2), [MAX_UNCONFIRMED, MAX_UNCONFIRMED + 200])
  })
})

test('the supervisor accepts: if none takes anything the rest waits in the kernel, and goes on afterwards', async t => {
  await dispatching(t, ACCEPTS, {}, async supervisor => {
    const pids = supervisor.workers.map(({ pid }) => pid!)
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    const before = native.held()
    const count = 400
    const answers = await crowd(supervisor, count)
    await until(() => native.held() - before >= pids.length, 'each has something to take')
    for (let i = 0; i < 100; i++) await new Promise(setImmediate)
    t.true(native.held() - before < count / 2, `${native.held() - before}`)
    for (const pid of pids) process.kill(pid, 'SIGCONT')
    t.is((await Promise.all(answers)).filter(text => text.endsWith(' hi\n')).length, count)
    t.is(
      (await served(supervisor)).reduce((sum, one) => sum + one),
      count
    )
  })
})

test('the supervisor accepts: what a dying worker had not taken goes to others, all of it, once', async t => {
  for (const count of [20, 2 * MAX_UNCONFIRMED - 100]) {
    const more = { restart: () => ({ restart: true, delay: 60_000 }) as const }
    await dispatching(t, ACCEPTS, { more }, async supervisor => {
      const dying = pidOf(supervisor, 0)
      process.kill(dying, 'SIGSTOP')
      const asking = await crowd(supervisor, count)
      const other = supervisor.workers[1]!.channel
      let taken = 0
      while (taken < count / 2) taken = await other.request<number>('served?')
      t.is(taken, count / 2)
      process.kill(dying, 'SIGKILL')
      t.deepEqual(bySlot(await Promise.all(asking), 2), [0, count])
      t.deepEqual(await served(supervisor), [count])
    })
  }
})

/** By these the supervisor only tells workers how many to accept. */
const TELLS = ['round-robin', 'least-connections'] as const
const HOLDS = { restart: () => ({ restart: true, delay: 60_000 }) as const }

for (const rule of TELLS)
  for (const [what, where] of [
    ['TCP', () => ({})],
    ['a Unix socket', unix]
  ] as const) {
    // A normal run takes each rule and each kind of socket once
    if (!isFull && (rule === 'round-robin') !== (what === 'TCP')) continue
    test(`${rule}, ${what}: a worker that accepts nothing keeps no more than its share of the queue, and idles nobody`, async t => {
      await dispatching(t, rule, where(), async supervisor => {
        const stopped = pidOf(supervisor, 0)
        process.kill(stopped, 'SIGSTOP')
        const before = native.held()
        const count = 2 * MAX_PERMITS + 150
        const asking = await crowd(supervisor, count)
        const other = supervisor.workers[1]!.channel
        let taken = 0
        while (taken < count - MAX_PERMITS) taken = await other.request<number>('served?')
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
            for (let i = 0; i < 50; i++) t.is(await other.request<number>('served?'), count - MAX_PERMITS)
          }
        )
        t.true(looks < 10, `${looks} looks`)
        process.kill(stopped, 'SIGCONT')
        t.deepEqual(bySlot(await Promise.all(asking), 2), [MAX_PERMITS, count - MAX_PERMITS])
      })
    })

    test(`${rule}, ${what}: what a dying worker was to accept is accepted by others`, async t => {
      for (const count of [20, 2 * MAX_PERMITS + 50])
        await dispatching(t, rule, { ...where(), more: HOLDS }, async supervisor => {
          const dying = pidOf(supervisor, 0)
          process.kill(dying, 'SIGSTOP')
          const asking = await crowd(supervisor, count)
          const own = Math.min(count / 2, MAX_PERMITS)
          const other = supervisor.workers[1]!.channel
          let taken = 0
          while (taken < count - own) taken = await other.request<number>('served?')
          t.is(taken, count - own)
          process.kill(dying, 'SIGKILL')
          t.deepEqual(bySlot(await Promise.all(asking), 2), [0, count])
        })
    })

    test(`${rule}, ${what}: if none accepts anything all wait in the kernel, and are served afterwards`, async t => {
      await dispatching(t, rule, where(), async supervisor => {
        const pids = supervisor.workers.map(({ pid }) => pid!)
        for (const pid of pids) process.kill(pid, 'SIGSTOP')
        const before = native.held()
        const answers = await crowd(supervisor, 400)
        for (let i = 0; i < 100; i++) await new Promise(setImmediate)
        t.is(native.held(), before)
        for (const pid of pids) process.kill(pid, 'SIGCONT')
        t.is((await Promise.all(answers)).filter(text => text.endsWith(' hi\n')).length, 400)
      })
    })
  }

const EAGAIN = -11

for (const [what, blocked] of [
  ['one after the other is accepted, all of them', false],
  ['a worker that is blocked keeps nobody waiting', true]
] as const)
  test(`a kernel that does not count the queue: ${what}`, async t => {
    await dispatching(t, 'round-robin', {}, async supervisor => {
      if (blocked) process.kill(pidOf(supervisor, 0), 'SIGSTOP')
      await patched(
        'queued',
        original => fd => (original(fd) > 0 ? EAGAIN : 0),
        async () => {
          const answers = await askMany(supervisor, 60)
          t.is(answers.filter(text => text.endsWith(' hi\n')).length, 60)
          if (blocked) t.deepEqual(bySlot(answers, 2), [0, 60])
          else t.true(bySlot(answers, 2).every(count => count > 0))
        }
      )
      if (blocked) process.kill(pidOf(supervisor, 0), 'SIGCONT')
    })
  })

test('a worker that is told to stop, and is blocked, keeps nobody waiting', async t => {
  await dispatching(t, 'round-robin', {}, async supervisor => {
    const removed = pidOf(supervisor, 1)
    process.kill(removed, 'SIGSTOP')
    const asking = await crowd(supervisor, 40)
    const scaled = supervisor.scale(1)
    t.deepEqual(bySlot(await Promise.all(asking), 2), [40, 0])
    process.kill(removed, 'SIGCONT')
    await scaled
  })
})

test('a listener whose queue is never empty keeps no other listener from being served', async t => {
  const entry = program(`
    const worker = await joinSupervisor()
    for (const name of ['busy', 'quiet']) await worker.receive(name, connection => connection.toSocket().end(name))
    await worker.ready()`)
  const options = { entry, listeners: { busy: TCP, quiet: TCP }, balance: { dispatch: 'round-robin' } as const }
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const { port: busy } = supervisor.address('busy') as { port: number }
    const { port: quiet } = supervisor.address('quiet') as { port: number }
    const own = new Int32Array(2)
    const isBusy = (fd: number): boolean => native.inetName(fd, false, own, Buffer.alloc(64)) >= 0 && own[1] === busy
    await patched(
      'queued',
      original => fd => original(fd) + (isBusy(fd) ? 1 : 0),
      async () => {
        t.is(await answer(connect(busy, '127.0.0.1')), 'busy')
        for (let i = 0; i < 5; i++) t.is(await answer(connect(quiet, '127.0.0.1')), 'quiet')
      }
    )
  })
})

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

test('somebody else accepts from the same listener: nobody waits for what was not there', async t => {
  const listener = await Descriptor.bind(TCP)
  const copy = listener.dup()
  const accepted = new Int32Array(1)
  await dispatching(t, 'least-connections', { listener }, async supervisor => {
    const pids = supervisor.workers.map(({ pid }) => pid!)
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    const [first] = await wave(supervisor, 1)
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
    t.is(native.acceptMany(copy.borrow(), accepted, 1, null), 1)
    for (const pid of pids) process.kill(pid, 'SIGCONT')
    t.deepEqual(bySlot(await askMany(supervisor, 20), 2), [10, 10])
    t.true(supervisor.workers.every(({ connections }) => connections >= 0))
    native.close(accepted[0]!)
    first!.destroy()
  })
  copy.close()
})

test('stop(): what had come before is served', async t => {
  await dispatching(t, 'round-robin', {}, async supervisor => {
    const pids = supervisor.workers.map(({ pid }) => pid!)
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    const count = 400
    const answers = await crowd(supervisor, count)
    const stopped = supervisor.stop()
    for (const pid of pids) process.kill(pid, 'SIGCONT')
    t.is((await Promise.all(answers)).filter(text => text.endsWith(' hi\n')).length, count)
    await stopped
  })
})

test('a route function stops the supervisor: who waits is served all the same', async t => {
  let stopped: Promise<void> | undefined
  let supervisor: Supervisor | undefined
  const route: Route = ({ head, ended }) => {
    if (String(head) === 'stop\n') stopped = supervisor!.stop()
    return head.length === 0 && !ended ? 'more' : undefined
  }
  await dispatching(t, route, {}, async made => {
    supervisor = made
    const answers = [...Array.from({ length: 30 }, () => ask(made)), ask(made, 'stop\n')]
    for (const text of await Promise.all(answers)) t.regex(text, /^\d\/\d (hi|stop)\n$/)
    await stopped
  })
})

test('reloading: every connection is answered', async t => {
  await dispatching(t, 'least-connections', {}, async supervisor => {
    let reloading = true
    const clients = Array.from({ length: 8 }, async () => {
      let answered = 0
      while (reloading) {
        t.regex(await ask(supervisor), /^\d\/\d+ hi\n$/)
        answered++
      }
      return answered
    })
    for (let i = 0; i < 2; i++) await supervisor.reload()
    reloading = false
    for (const answered of await Promise.all(clients)) t.true(answered > 0)
  })
})

test('the supervisor accepts: at the limit of open files that rests, and goes on when there is room', async t => {
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
  const until300 = performance.now() + 300
  await until(() => performance.now() > until300, 'a while')
  t.true(cpuOf(told.child.pid!) - spent < 0.15, 'it is busy')
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
