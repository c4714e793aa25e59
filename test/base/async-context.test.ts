import { AsyncLocalStorage, createHook, executionAsyncId } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import { EventEmitter, once } from 'node:events'
import type { ExecutionContext } from 'ava'
import { AsyncContext, bound } from '../../src/base/async-context.ts'
import * as datagram from '../../src/datagram/index.ts'
import { connect, Descriptor, listen, pair } from '../../src/index.ts'
import {
  type Balance,
  type Decision,
  Supervisor,
  type SupervisorEvents,
  type SupervisorOptions
} from '../../src/prefork/index.ts'
import * as streams from '../../src/stream/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { temporaryPath } from '../helpers/path.ts'
import { packetPair, streamPair } from '../helpers/streams.ts'
import { get, only, program, WAITS } from '../helpers/supervising.ts'
import { test, testInCi, until } from '../helpers/test.ts'

const store = new AsyncLocalStorage<string>()
const OPENED = 'where it was opened'
const CALLED = 'where it was called'

const opening = <T>(work: () => T): T => store.run(OPENED, work)
const calling = <T>(work: () => T): T => store.run(CALLED, work)

/** A callback that tells its context, and tries to change that of whatever is called after it. */
interface Probe {
  <T>(result: T): () => T
  /** To be called in a callback. */
  look(): void
  readonly seen: (string | undefined)[]
}

function probe(): Probe {
  const seen: (string | undefined)[] = []
  const look = (): void => {
    seen.push(store.getStore())
    store.enterWith('left behind')
  }
  const of = <T>(result: T) => {
    return (): T => {
      look()
      return result
    }
  }
  return Object.assign(of, { look, seen }) as Probe
}

type Work = (probe: Probe, t: ExecutionContext) => Promise<void>

/** Each callback is called twice at least; `expected` is what each of them must have seen. */
const rows: [title: string, expected: string, work: Work][] = []
const row = (title: string, expected: string, work: Work): void => void rows.push([title, expected, work])

const listenTo = (emitter: EventEmitter<any>, event: string, listener: () => void): void =>
  void emitter.on(event, listener)
const seenBy = (p: Probe, count: number): Promise<void> => until(() => p.seen.length >= count, `${count} calls`)

// --- channels

row("a channel's 'message' listener", OPENED, async p => {
  const [left, right] = await opening(() => connected())
  listenTo(right, 'message', p.look)
  await left.send(1)
  await left.send(2)
  await seenBy(p, 2)
  await left.send(3)
  await seenBy(p, 3)
  await closeAll(left, right)
})

row("a channel's 'message' listener, for what has waited", OPENED, async p => {
  const [left, right] = await opening(() => connected())
  for (let i = 0; i < 3; i++) await left.send(i)
  await new Promise(setImmediate)
  calling(() => listenTo(right, 'message', p.look))
  await seenBy(p, 3)
  await closeAll(left, right)
})

for (const [how, options, answer] of [
  ['that returns', {}, 'now'],
  ['that is async', {}, 'later'],
  ['with concurrency 1', { concurrency: 1 }, 'later'],
  ['with concurrency 1 that returns', { concurrency: 1 }, 'now']
] as const)
  for (const waiting of [false, true])
    row(`a serve handler ${how}${waiting ? ', for what has waited' : ''}`, CALLED, async p => {
      const [left, right] = await opening(() => connected())
      const handler = (): unknown => {
        p.look()
        return answer === 'now' ? 1 : Promise.resolve(2)
      }
      const serve = (): void => calling(() => right.serve(handler, options))
      if (!waiting) serve()
      const answers = [left.request(1), left.request(2), left.request(3)]
      void left.send('plain')
      if (waiting) {
        await new Promise(setImmediate)
        serve()
      }
      await Promise.all(answers)
      await seenBy(p, 4)
      await left.request('again')
      await closeAll(left, right)
    })

row('an async serve handler goes on in its own context', CALLED, async p => {
  const [left, right] = await opening(() => connected())
  const own: (string | undefined)[] = []
  calling(() =>
    right.serve(
      async ({ value }) => {
        p.look()
        store.enterWith(`of ${value}`)
        await new Promise(setImmediate)
        own.push(store.getStore())
      },
      { concurrency: 2 }
    )
  )
  await Promise.all([1, 2, 3, 4].map(value => left.request(value)))
  await closeAll(left, right)
  if (own.join() !== 'of 1,of 2,of 3,of 4') throw new Error(own.join())
})

row('onError', CALLED, async p => {
  const [left, right] = await opening(() => connected())
  const handler = ({ value }: { value: unknown }): unknown => {
    store.enterWith('the handler')
    if (value === 1) return Promise.resolve()
    throw new Error('failed')
  }
  calling(() => right.serve(handler, { onError: p.look }))
  for (let i = 0; i < 4; i++) void left.send(0)
  await seenBy(p, 4)
  await closeAll(left, right)
})

row('onError, for what a schema refuses', CALLED, async p => {
  const refusing = { '~standard': { version: 1, vendor: 'test', validate: () => ({ issues: [{ message: 'no' }] }) } }
  const [left, right] = await opening(() => connected({}, { schema: refusing as never }))
  calling(() => right.serve(() => 1, { onError: p.look }))
  void left.send(1)
  void left.send(2)
  await seenBy(p, 2)
  await closeAll(left, right)
})

for (const later of [false, true])
  row(`a channel's ${later ? 'async ' : ''}schema`, OPENED, async p => {
    const validate = (value: unknown): unknown => {
      p.look()
      return later ? Promise.resolve({ value }) : { value }
    }
    const schema = { '~standard': { version: 1, vendor: 'test', validate } }
    const [left, right] = await opening(() => connected({}, { schema: schema as never }))
    calling(() => right.serve(() => 1))
    await Promise.all([left.request(1), left.request(2)])
    await closeAll(left, right)
  })

row("a request's schema", CALLED, async p => {
  const validate = (value: unknown): unknown => {
    p.look()
    return { value }
  }
  const schema = { '~standard': { version: 1, vendor: 'test', validate } }
  const [left, right] = await opening(() => connected())
  right.serve(() => 1)
  await calling(() => Promise.all([1, 2].map(value => left.request(value, { schema: schema as never }))))
  await closeAll(left, right)
})

row("a channel's 'returned' listener", OPENED, async p => {
  const [left, right] = opening(() => pair())
  listenTo(left, 'returned', p.look)
  void left.send(file())
  void left.send(file())
  const closed = once(left, 'close')
  calling(() => left.destroy())
  await closed
  right.close()
})

row("a channel's 'close' listener", OPENED, async p => {
  for (let i = 0; i < 2; i++) {
    const [left, right] = await opening(() => connected())
    listenTo(left, 'close', p.look)
    listenTo(right, 'close', p.look)
    await calling(() => left.close())
    await seenBy(p, 2 * i + 2)
  }
})

row('abort listeners of a request that is cancelled', OPENED, async p => {
  const [left, right] = await opening(() => connected())
  const come: Promise<unknown>[] = []
  calling(() =>
    right.serve(({ signal }) => {
      const aborted = once(signal, 'abort')
      signal.addEventListener('abort', p.look)
      come.push(aborted)
      return aborted
    })
  )
  const controller = new AbortController()
  const all = [1, 2].map(value => left.request(value, { signal: controller.signal }))
  await until(() => come.length === 2, 'both handlers run')
  calling(() => controller.abort())
  await Promise.allSettled(all)
  await Promise.all(come)
  await closeAll(left, right)
})

row('abort listeners when the channel ends', OPENED, async p => {
  const [left, right] = await opening(() => connected())
  let handled = 0
  calling(() =>
    right.serve(({ signal }) => {
      handled++
      signal.addEventListener('abort', p.look)
      return new Promise(() => {})
    })
  )
  void left.request(1).catch(() => {})
  void left.send(2)
  await until(() => handled === 2, 'both handlers run')
  const closed = [once(left, 'close'), once(right, 'close')]
  calling(() => right.destroy())
  await Promise.all(closed)
})

for (const name of ['open', 'close'])
  row(`subscribers of passfd:channel:${name}`, OPENED, async p => {
    diagnostics.subscribe(`passfd:channel:${name}`, p.look)
    for (let i = 0; i < 2; i++) await opening(async () => closeAll(...(await connected())))
    diagnostics.unsubscribe(`passfd:channel:${name}`, p.look)
  })

row('subscribers of passfd:message:received', OPENED, async p => {
  diagnostics.subscribe('passfd:message:received', p.look)
  const [left, right] = await opening(() => connected())
  calling(() => right.serve(() => 1))
  await Promise.all([left.request(1), left.request(2)])
  diagnostics.unsubscribe('passfd:message:received', p.look)
  await closeAll(left, right)
})

row('for await, request and send go on where they were called', CALLED, async p => {
  const [left, right] = await opening(() => connected())
  const reading = calling(async () => {
    for await (const message of right) {
      p.seen.push(store.getStore())
      if (message.isRequest) await message.reply(1)
    }
    p.seen.push(store.getStore())
  })
  await calling(async () => {
    await left.send(1)
    p.seen.push(store.getStore())
    await left.request(2)
    p.seen.push(store.getStore())
  })
  await closeAll(left, right)
  await reading
})

row('authorize of connect', CALLED, async p => {
  await using server = await listen(temporaryPath())
  for (let i = 0; i < 2; i++) {
    const channel = await calling(() => connect(server.address, { authorize: p(true) }))
    await channel.close()
  }
})

// --- servers of channels

row("a channel server's listeners, and authorize", OPENED, async p => {
  const path = temporaryPath()
  const server = await opening(() => listen(path, { authorize: p(true) }))
  listenTo(server, 'channel', p.look)
  for (let i = 0; i < 2; i++) await (await connect(path)).close()
  listenTo(server, 'close', p.look)
  await calling(() => server.close())
  await seenBy(p, 5)
})

row("a channel server's 'refused' listener", OPENED, async p => {
  const path = temporaryPath()
  const server = await opening(() =>
    listen(path, {
      authorize() {
        store.enterWith('authorize')
        return false
      }
    })
  )
  listenTo(server, 'refused', p.look)
  for (let i = 0; i < 2; i++) await connect(path).catch(() => {})
  await seenBy(p, 2)
  await server.close()
})

row("the handler of a server's serve", CALLED, async p => {
  const path = temporaryPath()
  const server = await opening(() => listen(path))
  const early = await connect(path)
  await until(() => server.channels.size === 1, 'the first one')
  calling(() => server.serve(p(1)))
  const late = await connect(path)
  for (const channel of [early, late, early]) await channel.request(1)
  await closeAll(early, late)
  await server.close()
})

row('listeners of channels that a server has accepted', OPENED, async p => {
  const path = temporaryPath()
  const server = await opening(() =>
    listen(path, {
      authorize() {
        store.enterWith('authorize')
        return true
      }
    })
  )
  server.on('channel', channel => {
    store.enterWith("the 'channel' listener")
    listenTo(channel, 'message', p.look)
    listenTo(channel, 'close', p.look)
  })
  const channels = await Promise.all([connect(path), connect(path)])
  await Promise.all(channels.map(channel => channel.send(1)))
  await closeAll(...channels)
  await seenBy(p, 4)
  await server.close()
})

// --- streams

for (const [kind, on, connectTo] of [
  ['stream', streams.listen, streams.connect],
  ['packet', streams.listenPackets, streams.connectPackets]
] as const)
  row(`a ${kind} server's listeners and authorize, and those of its sockets`, OPENED, async p => {
    const path = temporaryPath()
    let refuse = false
    const server = await opening(() =>
      on(path, {
        authorize() {
          p.look()
          return !refuse
        }
      })
    )
    listenTo(server, 'connection', p.look)
    listenTo(server, 'refused', p.look)
    listenTo(server, 'close', p.look)
    server.on('connection', (socket: any) => {
      for (const event of ['data', 'message', 'end', 'close']) listenTo(socket, event, p.look)
    })
    for (let i = 0; i < 2; i++) {
      const socket: any = await connectTo(path)
      if (kind === 'stream') {
        socket.resume()
        socket.end('bytes')
      } else {
        socket.on('message', () => {})
        void socket.send('bytes')
        void socket.end()
      }
      await once(socket, 'close')
    }
    refuse = true
    const refused: any = await connectTo(path)
    refused.on('error', () => {})
    await once(server, 'refused')
    refused.destroy()
    await calling(() => server.close())
    await seenBy(p, 4 + 2 * 3 + 3)
  })

row("a stream's listeners", OPENED, async p => {
  const [left, right] = opening(() => streamPair({ highWaterMark: 1 }, {}))
  for (const event of ['data', 'end', 'close', 'descriptors', 'resume']) listenTo(right, event, p.look)
  right.on('descriptors', ([descriptor]: Descriptor[]) => descriptor!.close())
  for (const event of ['drain', 'finish', 'close', 'end']) listenTo(left, event, p.look)
  calling(() => {
    left.resume()
    left.writeWithDescriptors('first', [file()])
    left.write(Buffer.alloc(1_000_000))
    right.resume()
  })
  await once(left, 'drain')
  calling(() => left.end('last'))
  const ended = once(left, 'close')
  await once(right, 'close')
  await ended
  await seenBy(p, 8)
})

row("a stream's 'fds' and 'error' listeners", OPENED, async p => {
  const [left, right] = opening(() => streamPair())
  right.on('fds', (fds: number[]) => {
    p.look()
    for (const fd of fds) Descriptor.adopt(fd).close()
  })
  for (const stream of [left, right]) listenTo(stream, 'error', p.look)
  right.resume()
  left.writeWithDescriptors('first', [file()])
  left.writeWithDescriptors('second', [file()])
  await seenBy(p, 2)
  const closed = [once(left, 'close'), once(right, 'close')]
  calling(() => left.destroy(new Error('one')))
  calling(() => right.destroy(new Error('two')))
  await Promise.all(closed.map(one => one.catch(() => {})))
  await seenBy(p, 4)
})

row("callbacks of a stream's write and end", CALLED, async p => {
  const [left, right] = opening(() => streamPair())
  left.resume()
  right.resume()
  const big = Buffer.alloc(4_000_000)
  calling(() => {
    left.write('small', p.look)
    left.write(big, p.look)
    left.write('text', 'latin1', p.look)
    left.writeWithDescriptors('with', [file()], p.look)
    left.end('end', p.look)
  })
  await Promise.all([left, right].map(stream => stream.closed || once(stream, 'close')))
  await seenBy(p, 5)
})

row('the loops over a stream go on where they are', CALLED, async p => {
  const [left, right] = opening(() => streamPair())
  const [other, last] = opening(() => streamPair())
  const reading = [right, last].map((stream, index) =>
    calling(async () => {
      for await (const part of index === 0 ? stream : stream.withDescriptors()) {
        p.seen.push(store.getStore())
        if ('descriptors' in part) for (const descriptor of part.descriptors) descriptor.close()
      }
    })
  )
  for (const stream of [left, other]) {
    stream.resume()
    stream.writeWithDescriptors('one', [])
    stream.writeWithDescriptors('two', [file()])
    stream.end()
  }
  await Promise.all(reading)
  await Promise.all([left, other].map(stream => stream.closed || once(stream, 'close')))
})

row("a packet socket's listeners", OPENED, async p => {
  const [left, right] = opening(() => packetPair())
  for (const event of ['message', 'end', 'close']) {
    listenTo(left, event, p.look)
    listenTo(right, event, p.look)
  }
  await calling(() => Promise.all([left.send('1'), left.send('2'), right.send('3')]))
  await seenBy(p, 3)
  await calling(() => left.end())
  await seenBy(p, 7)
})

row("listeners of a pipe's streams", OPENED, async p => {
  const { readable, writable } = Descriptor.pipe()
  const [reader, writer] = opening(() => [readable.toDuplex(), writable.toWritable()] as const)
  for (const event of ['data', 'end', 'close']) listenTo(reader, event, p.look)
  for (const event of ['drain', 'finish', 'close']) listenTo(writer, event, p.look)
  calling(() => writer.write(Buffer.alloc(200_000)))
  await once(writer, 'drain')
  const closed = once(reader, 'close')
  calling(() => writer.end())
  await closed
  await seenBy(p, 7)
})

// --- datagrams

row("a datagram socket's listeners and authorize", OPENED, async p => {
  let allowed = true
  const socket = await opening(() =>
    datagram.bind(undefined, {
      authorize() {
        p.look()
        return allowed
      }
    })
  )
  for (const event of ['message', 'dropped', 'close']) listenTo(socket, event, p.look)
  const sender = datagram.unnamed()
  for (let i = 0; i < 3; i++) await sender.send('text', { to: socket.address! })
  await seenBy(p, 6)
  allowed = false
  for (let i = 0; i < 2; i++) await sender.send('text', { to: socket.address! })
  await seenBy(p, 10)
  await calling(() => socket.close())
  await sender.close()
  await seenBy(p, 11)
})

row("the listeners of unix-dgram's createSocket", OPENED, async p => {
  const path = temporaryPath()
  const [one, other] = opening(() => [datagram.createSocket('unix_dgram'), datagram.createSocket('unix_dgram')])
  for (const event of ['message', 'listening', 'connect', 'congestion', 'writable', 'error']) {
    listenTo(one!, event, p.look)
    listenTo(other!, event, p.look)
  }
  calling(() => {
    one!.bind(path)
    other!.connect(path)
    for (let i = 0; i < 40; i++) other!.send(Buffer.from('text'))
    other!.bind('/nowhere/at/all')
  })
  await seenBy(p, 20)
  one!.close()
  other!.close()
})

// --- prefork

const PREFORK = { listeners: { http: { port: 0, host: '127.0.0.1' } }, workers: 1, heartbeat: 50, idleGrace: 50 }
const SERVES = `
import { createServer } from 'node:http'
const worker = await joinSupervisor()
await worker.listen('http', createServer((request, response) => response.end('text')))
await worker.channel.send('one')
await worker.channel.send('two')
await worker.ready()`

row('listeners of a Supervisor and of its channels, its route and restart functions', OPENED, async (p, t) => {
  const heard = new Set<string>()
  const see = (what: string): void => {
    heard.add(what)
    p.look()
  }
  const listen = (supervisor: Supervisor, ...events: (keyof SupervisorEvents)[]): void => {
    for (const event of events) listenTo(supervisor, event, () => see(event))
    supervisor.on('worker', ({ channel }) => channel.on('message', () => see('message')))
  }
  const made: Supervisor[] = []
  const make = (options: Partial<SupervisorOptions>): Supervisor => {
    const whole = { ...PREFORK, entry: program(SERVES), spawn: { execArgv: [] }, ...options }
    made.push(opening(() => new Supervisor(whole)))
    return made.at(-1)!
  }
  t.teardown(() => Promise.all(made.map(supervisor => supervisor.kill())))
  const restart = (deaths: readonly unknown[]): Decision => {
    see('restart')
    return deaths.length < 4 ? { restart: true, delay: 0 } : { restart: false, reason: 'enough' }
  }
  const route = (): undefined => {
    see('route')
    throw new Error('on purpose')
  }
  const first = make({ restart, balance: { dispatch: route } })
  listen(first, 'state', 'worker', 'exit', 'started', 'routeFailed', 'crashLoop', 'gaveUp', 'stopped')
  await calling(() => first.start())
  await calling(() => get(first))
  await calling(() => get(first))
  const stopped = once(first, 'stopped')
  for (let death = 1; death <= 4; death++) {
    await only(first, death)
    process.kill(first.workers[0]!.pid!, 'SIGKILL')
    await until(() => first.workers.every(({ id }) => id > death), 'its end')
  }
  await stopped

  const second = make({ entry: program(WAITS), lameDuck: 1, limits: { age: 1, jitter: 0 } })
  listen(second, 'unserved', 'beyondLimit', 'reloadFailed', 'lameDuck', 'stopped')
  await calling(() => second.start())
  await until(() => heard.has('beyondLimit'), 'the limit')
  await calling(() => second.stop())
  const onlyOne = program(
    WAITS.replace('await worker.ready()', 'if (worker.id === 1) await worker.ready(); else process.exit(1)')
  )
  const third = make({ entry: onlyOne, limits: { age: 1, jitter: 0 } })
  listen(third, 'unserved', 'reloadFailed')
  await calling(() => third.start())
  await until(() => heard.has('reloadFailed'), 'a failed replacement')
  await calling(() => third.stop())
  const all =
    'state worker exit started routeFailed crashLoop gaveUp stopped unserved beyondLimit reloadFailed lameDuck'
  t.deepEqual([...heard].toSorted(), `${all} message restart route`.split(' ').toSorted())
})

type Seen = Record<'opened' | 'called' | 'server', string[]>
const workers = new Map<Balance, Promise<Seen>>()

/** What `askWorker` gave of this balance: two tests look at one run. */
function seenByWorker(t: ExecutionContext, balance: Balance): Promise<Seen> {
  const known = workers.get(balance) ?? askWorker(t, balance)
  workers.set(balance, known)
  return known
}

/** In a worker: what the functions of its program have seen, that of the `joinSupervisor` call and that of their own. */
async function askWorker(t: ExecutionContext, balance: Balance): Promise<Seen> {
  const entry = program(`
    import { AsyncLocalStorage } from 'node:async_hooks'
    import { createServer } from 'node:http'
    const store = new AsyncLocalStorage()
    const seen = { opened: [], called: [], server: [] }
    const look = which => {
      seen[which].push(store.getStore() ?? 'none')
      // Node itself lets a server's next connection see this
      if (!${balance === 'per-worker'} || which !== 'server') store.enterWith('left behind')
    }
    const worker = await store.run('${OPENED}', () => joinSupervisor())
    for (const signal of [worker.lameDuck, worker.signal])
      signal.addEventListener('abort', () => look('opened'))
    worker.channel.on('message', () => look('opened'))
    const server = createServer((request, response) => { look('server'); response.end('text') })
    server.on('connection', () => look('server'))
    await store.run('${CALLED}', async () => {
      worker.onStop(() => worker.channel.request(seen))
      for (let i = 0; i < 2; i++) worker.onStop(() => look('called'))
      await worker.listen('http', server)
      await worker.receive('raw', connection => {
        look('called')
        connection.toSocket().end('HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n')
      })
    })
    await worker.ready()`)
  const listeners = { ...PREFORK.listeners, raw: { port: 0, host: '127.0.0.1' } }
  const supervisor = new Supervisor({ ...PREFORK, listeners, entry, balance, spawn: { execArgv: [] } })
  t.teardown(() => supervisor.kill())
  await supervisor.start()
  const { channel } = supervisor.workers[0]!
  let seen = { opened: [] as string[], called: [] as string[], server: [] as string[] }
  channel.serve(({ value }) => {
    seen = value as typeof seen
  })
  for (let i = 0; i < 2; i++) {
    await channel.send('text')
    await get(supervisor)
    await get(supervisor, 'raw')
  }
  await supervisor.stop()
  return seen
}

for (const balance of ['per-worker', { dispatch: 'round-robin' }] as const) {
  const name = JSON.stringify(balance)
  row(`a worker's abort and 'message' listeners, ${name}`, OPENED, async (p, t) => {
    p.seen.push(...(await seenByWorker(t, balance)).opened)
    t.is(p.seen.length, 4)
  })
  row(`a worker's onStop and receive handlers, and the listeners of its server, ${name}`, CALLED, async (p, t) => {
    const { called, server } = await seenByWorker(t, balance)
    p.seen.push(...called, ...server)
    t.is(p.seen.length, 8)
  })
}

for (const [title, expected, work] of rows) {
  // It starts workers
  const declare = title.startsWith('listeners of a Supervisor') ? testInCi : test
  declare(`${title}: sees the context ${expected}, and nothing of the calls before`, async t => {
    const p = probe()
    await store.run('the test', () => work(p, t))
    if (p.seen.length === 0) return t.fail('nothing was called')
    t.deepEqual(
      p.seen.map(seen => seen ?? 'none'),
      p.seen.map(() => expected)
    )
  })
}

test('tell: what a listener throws comes later, and the answer is whether somebody listens', async t => {
  const context = new AsyncContext('PASSFD_SERVER')
  const emitter = new EventEmitter()
  t.false(context.tell(emitter, 'news'))
  const thrown = new Promise(resolve => process.prependOnceListener('uncaughtException', resolve))
  const others = process.listeners('uncaughtException').slice(1)
  for (const other of others) process.off('uncaughtException', other)
  emitter.on('news', (...values) => {
    throw new RangeError(values.join())
  })
  t.true(context.tell(emitter, 'news', 1, 2))
  t.like(await thrown, { name: 'RangeError', message: '1,2' })
  for (const other of others) process.on('uncaughtException', other)
  context.end()
})

test('what one channel sets is seen by no other that wakes up with it', async t => {
  const ends = await Promise.all(Array.from({ length: 8 }, () => connected()))
  const seen: unknown[] = []
  for (const [, right] of ends)
    right.serve(({ value }) => {
      seen.push(store.getStore())
      store.enterWith(String(value))
    })
  for (let round = 0; round < 3; round++)
    await Promise.all(ends.flatMap(([left], index) => [left.request(index), left.send(index)]))
  t.deepEqual(new Set(seen), new Set([undefined]))
  for (const [left, right] of ends) await closeAll(left, right)
})

test('handlers and listeners have the async id of a resource', async t => {
  const [left, right] = await connected()
  const ids: number[] = []
  right.serve(() => void ids.push(executionAsyncId()))
  left.on('close', () => void ids.push(executionAsyncId()))
  for (let i = 0; i < 3; i++) await left.request(i)
  await closeAll(left, right)
  t.is(ids.length, 4)
  t.false(ids.includes(0))
})

test('async hooks hear of the end of every resource of which they heard the beginning', async t => {
  const open = new Map<number, string>()
  const hook = createHook({
    init: (id, type) => void (type.startsWith('PASSFD') && open.set(id, type)),
    destroy: id => void open.delete(id)
  }).enable()
  const path = temporaryPath()
  const server = await listen(path)
  server.serve(() => 1)
  const raw = await streams.listen(temporaryPath())
  raw.on('connection', stream => stream.on('data', () => {}))
  const socket = await datagram.bind()
  socket.on('message', () => {})
  for (let i = 0; i < 10; i++) {
    const channel = await connect(path)
    for (let j = 0; j < 20; j++) await channel.request(j)
    await channel.close()
    const stream = await streams.connect(raw.address)
    stream.resume()
    stream.write('text', () => {})
    stream.end('text')
    await once(stream, 'close')
    await socket.send('text', { to: socket.address! })
  }
  await server.close()
  await raw.close()
  await socket.close()
  await until(() => open.size === 0, 'all are destroyed').catch(() => {})
  hook.disable()
  t.deepEqual([...open.values()], [])
})

test('an error that a callback throws leaves the context as it was', t => {
  const context = store.run(OPENED, () => new AsyncContext('PASSFD_TEST'))
  const failing = (): never => {
    store.enterWith('left behind')
    throw new Error('on purpose')
  }
  for (let i = 0; i < 3; i++) {
    t.throws(() => context.run(failing), { message: 'on purpose' })
    t.is(store.getStore(), undefined)
    t.is(
      context.run(() => store.getStore()),
      OPENED
    )
    // One runs within another
    t.deepEqual(
      context.run(() => {
        store.enterWith('outer')
        return [context.run(() => store.getStore()), store.getStore()]
      }),
      [OPENED, 'outer']
    )
  }
  context.end()
  context.end()
  t.is(
    context.run(() => store.getStore()),
    OPENED
  )
  t.is(store.run(CALLED, () => bound((argument: number) => [argument, store.getStore()]))(1)[1], CALLED)
})
