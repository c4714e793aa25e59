/** One AbortSignal for many calls: no warning, and no listener is left when they are done. A warning fails the run (helpers/test.ts). */
import { EventEmitter, getEventListeners, once } from 'node:events'
import { createServer, connect as netConnect, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { whenAborted } from '../../src/base/abort-signals.ts'
import * as datagram from '../../src/datagram/index.ts'
import { Connection, connect, Descriptor, listen, type Message } from '../../src/index.ts'
import { MemoryPool } from '../../src/memory/index.ts'
import * as stream from '../../src/stream/index.ts'
import { closeAll, connected, nextMessage, patched } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { test, until } from '../helpers/test.ts'

setFlagsFromString('--expose-gc')

/** More than the 10 listeners of which Node warns. */
const MANY = 12
const ABORTED = { name: 'AbortError' }

function listeners(signal: AbortSignal): number {
  return getEventListeners(signal, 'abort').length
}

function times<T>(make: (index: number) => T): T[] {
  return Array.from({ length: MANY }, (_, index) => make(index))
}

/** Calls that wait, with one signal: settled by `done`, or all of them aborted. */
const waiting: Record<
  string,
  (signal: AbortSignal) => Promise<{ calls: Promise<unknown>[]; done(): unknown; end(): unknown }>
> = {
  async 'request()'(signal) {
    const [left, right] = await connected()
    const answers: (() => void)[] = []
    right.serve(() => new Promise<void>(resolve => void answers.push(resolve)))
    const calls = times(index => left.request(index, { signal }))
    await until(() => answers.length === MANY, 'the questions')
    return { calls, done: () => answers.map(answer => answer()), end: () => closeAll(left, right) }
  },
  async 'request() that waits for credit'(signal) {
    const [left, right] = await connected({}, { window: 1 })
    const calls = times(index => left.request(index, { signal }))
    return {
      calls,
      done: () => right.serve(() => {}),
      end: async () => {
        if (signal.aborted) right.serve(() => {})
        await closeAll(left, right)
      }
    }
  },
  async 'connect() to one who decides later'(signal) {
    const verdicts: ((verdict: boolean) => void)[] = []
    const authorize = () => new Promise<boolean>(resolve => void verdicts.push(resolve))
    const server = await listen(socketPath(), { authorize })
    const calls = times(() => connect(server.address, { signal }))
    await until(() => verdicts.length === MANY, 'the clients')
    return {
      calls,
      done: () => verdicts.map(decide => decide(true)),
      end: async () => {
        for (const decide of verdicts) decide(true)
        await server.close()
      }
    }
  },
  async 'connect() that decides later itself'(signal) {
    const server = await listen(socketPath())
    const verdicts: ((verdict: boolean) => void)[] = []
    const authorize = () => new Promise<boolean>(resolve => void verdicts.push(resolve))
    const calls = times(() => connect(server.address, { authorize, signal }))
    await until(() => verdicts.length === MANY, 'the questions')
    return { calls, done: () => verdicts.map(decide => decide(true)), end: () => server.close() }
  },
  async 'connect() to a full backlog'(signal) {
    const path = socketPath()
    const listener = await Descriptor.bind({ path, backlog: 0 } as never)
    const first = await stream.connect(path)
    let calls: Promise<unknown>[] = []
    let tries = 0
    await patched(
      'connect',
      original =>
        (...given) => {
          tries++
          return original(...given)
        },
      async () => {
        calls = times(() => connect(path, { signal }))
        for (const call of calls) call.catch(() => {})
        await until(() => tries >= MANY || signal.aborted, 'each to have tried')
      }
    )
    return {
      calls: signal.aborted ? [] : calls,
      done: undefined as never,
      end: () => {
        first.destroy()
        listener.close()
      }
    }
  },
  async 'Connection.take()'(signal) {
    const clients: Socket[] = []
    const server = createServer(client => void clients.push(client.pause())).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const block = Buffer.alloc(8 << 20)
    const sockets = times(() => netConnect({ port, host: '127.0.0.1' }))
    await Promise.all(sockets.map(socket => once(socket, 'connect')))
    for (const socket of sockets) socket.write(block)
    await until(() => clients.length === MANY, 'the clients')
    const taken = sockets.map(socket => Connection.take(socket, { signal }))
    const calls = taken.map(each => each.then(connection => connection.close()))
    return {
      calls,
      done: () => clients.map(client => client.resume()),
      end: async () => {
        for (const socket of [...sockets, ...clients]) socket.destroy()
        await Promise.all([...sockets, ...clients].map(socket => socket.closed || once(socket, 'close')))
        server.close()
        await once(server, 'close')
      }
    }
  },
  async 'datagram send()'(signal) {
    const receiver = await datagram.bind()
    const sender = datagram.unnamed({ maxQueued: 1 << 20 })
    const to = receiver.address!
    while (sender.queued === 0) void sender.send('fill', { to })
    const calls = times(() => sender.send('x', { to, signal }))
    return {
      calls,
      done: () => receiver.on('message', () => {}),
      end: async () => {
        receiver.on('message', () => {})
        await sender.close()
        await receiver.close()
      }
    }
  },
  async 'MemoryPool.acquire()'(signal) {
    const pool = new MemoryPool({ slots: 1, slotSize: 4096 })
    const slot = await pool.acquire()
    const calls = times(() => pool.acquire({ signal }).then(mine => mine.release()))
    return { calls, done: () => slot.release(), end: () => pool.close() }
  }
}

for (const [what, start] of Object.entries(waiting)) {
  if (what !== 'connect() to a full backlog')
    test(`one signal for many: ${what}, all done`, async t => {
      const { signal } = new AbortController()
      const { calls, done, end } = await start(signal)
      t.true(listeners(signal) <= 1)
      done()
      const results = await Promise.all(calls)
      t.is(listeners(signal), 0)
      for (const result of results) if (typeof (result as any)?.destroy === 'function') (result as any).destroy()
      await end()
      t.is(listeners(signal), 0)
    })
  test(`one signal for many: ${what}, all aborted`, async t => {
    const controller = new AbortController()
    const { calls, end } = await start(controller.signal)
    t.true(listeners(controller.signal) <= 1)
    controller.abort('enough')
    for (const call of calls) t.is((await t.throwsAsync(call, ABORTED)).cause, 'enough')
    t.is(listeners(controller.signal), 0)
    await end()
  })
}

/** What lives until it is closed, opened with one signal. */
const opened: Record<
  string,
  (signal: AbortSignal) => Promise<{ closed: Promise<unknown>; close(): Promise<unknown> }>
> = {
  'listen()': signal => listen(socketPath(), { signal }),
  'stream.listen()': signal => stream.listen(socketPath(), { signal }),
  'packet listen()': signal => stream.listenPackets(socketPath(), { signal }),
  'datagram bind()': signal => datagram.bind(undefined, { signal }),
  'datagram unnamed()': async signal => datagram.unnamed({ signal } as never)
}

for (const [what, open] of Object.entries(opened))
  test(`one signal for many: ${what}`, async t => {
    const { signal } = new AbortController()
    const first = await Promise.all(times(() => open(signal)))
    t.is(listeners(signal), 1)
    await Promise.all(first.map(each => each.close()))
    t.is(listeners(signal), 0)
    const controller = new AbortController()
    const second = await Promise.all(times(() => open(controller.signal)))
    controller.abort()
    for (const each of second) t.like(await each.closed, ABORTED)
    t.is(listeners(controller.signal), 0)
  })

test('whenAborted: each listener once; one that was stopped, or is stopped by another, never', async t => {
  const controller = new AbortController()
  const { signal } = controller
  const calls: string[] = []
  const listener = () => void calls.push('same')
  const stops = [listener, listener, listener].map(each => whenAborted(signal, each))
  stops[1]!()
  stops[1]!()
  whenAborted(signal, () => {
    calls.push('first')
    stopped()
    late = whenAborted(signal, () => calls.push('late'))
  })
  const stopped = whenAborted(signal, () => calls.push('stopped'))
  let late = () => {}
  t.is(listeners(signal), 1)
  controller.abort()
  t.deepEqual(calls, ['same', 'same', 'first'])
  late()
  whenAborted(signal, () => calls.push('already'))
  whenAborted(undefined, () => calls.push('none'))()
  await turn()
  t.deepEqual(calls.slice(3), ['already'])
  t.is(listeners(signal), 0)
})

test('a signal whose methods are replaced can’t stop a request half-way', async t => {
  const [left, right] = await connected()
  right.serve(() => 'answer')
  const { signal } = new AbortController()
  const fails = () => {
    throw new Error('no')
  }
  Object.assign(signal, { addEventListener: fails, removeEventListener: fails })
  t.is(await left.request(1, { signal }), 'answer')
  t.is(listeners(signal), 0)
  await closeAll(left, right)
})

test('another EventTarget in the place of Node’s, or none, changes nothing', async t => {
  const { EventTarget: own } = globalThis
  try {
    for (const other of [class EventTarget {}, undefined]) {
      const controller = new AbortController()
      const { signal } = controller
      const fails = () => t.fail('that is not Node’s method')
      Object.assign(signal, { addEventListener: fails, removeEventListener: fails })
      globalThis.EventTarget = other as typeof own
      let calls = 0
      const stops = [whenAborted(signal, () => calls++), whenAborted(signal, () => calls++)]
      t.is(listeners(signal), 1)
      stops[0]!()
      controller.abort()
      stops[1]!()
      t.is(calls, 1)
    }
  } finally {
    globalThis.EventTarget = own
  }
})

// --- the other way round: the signals that messages have

test('the signal of a plain message is its own: listeners do not pile up, and hear of the end', async t => {
  const [left, right] = await connected()
  const messages: Message[] = []
  right.on('message', message => void messages.push(message))
  for (let i = 0; i < MANY; i++) left.send(i)
  await until(() => messages.length === MANY, 'the messages')
  const ended: number[] = []
  for (const [index, message] of messages.entries()) {
    t.is(message.signal, message.signal)
    message.signal.addEventListener('abort', () => ended.push(index))
  }
  t.is(new Set(messages.map(({ signal }) => signal)).size, MANY)
  t.true(messages.every(({ signal }) => listeners(signal) === 1))
  left.destroy()
  const error = await right.closed
  t.is(ended.length, MANY)
  for (const { signal } of messages) t.is(signal.reason.cause, error)
})

test('the signal of a request that was answered is its own, too', async t => {
  const [left, right] = await connected()
  const messages: Message[] = []
  right.serve(message => {
    message.reply(1)
    messages.push(message)
    message.signal.addEventListener('abort', () => {})
  })
  for (let i = 0; i < MANY; i++) await left.request(i)
  t.is(new Set(messages.map(({ signal }) => signal)).size, MANY)
  await closeAll(left, right)
  t.true(messages.every(({ signal }) => signal.aborted))
})

test('signals of plain messages: nobody has to hold one with a listener; one without goes with its message', async t => {
  const collect = (await import('node:vm')).runInNewContext('gc') as () => void
  const [left, right] = await connected()
  const references: WeakRef<AbortSignal>[] = []
  let heard = 0
  right.on('message', message => {
    references.push(new WeakRef(message.signal))
    if (message.value === 'listen') message.signal.addEventListener('abort', () => heard++)
  })
  for (let i = 0; i < 100; i++) left.send(i % 10 === 0 ? 'listen' : 'look')
  await until(() => references.length === 100, 'the messages')
  await until(() => {
    collect()
    return references.filter(reference => reference.deref() !== undefined).length <= 11
  }, 'the collection of the signals')
  await closeAll(left, right)
  t.is(heard, 10)
})

test('a stream and an emitter of the program’s take a message’s signal like any other', async t => {
  const [left, right] = await connected()
  left.send(1)
  const { signal } = await nextMessage(right)
  const through = new PassThrough({ signal })
  const failed = once(through, 'error')
  const waitsForEver = once(new EventEmitter(), 'never', { signal })
  left.destroy()
  t.is(((await failed)[0] as Error).name, 'AbortError')
  await t.throwsAsync(waitsForEver, ABORTED)
  await right.closed
})
