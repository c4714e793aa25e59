/** Arguments of another realm (node:vm, Jest, Vitest) and of libraries are what they are here; what is alive here can't be cloned. */
import { once } from 'node:events'
import { pathToFileURL } from 'node:url'
import { createContext, runInContext } from 'node:vm'
import * as threads from 'node:worker_threads'
import * as datagram from '../../src/datagram/index.ts'
import { Connection, connect, Descriptor, listen, pair } from '../../src/index.ts'
import { MemoryPool, PoolReader, SharedMemory } from '../../src/memory/index.ts'
import { Supervisor } from '../../src/prefork/index.ts'
import * as stream from '../../src/stream/index.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

/** A DOMException is no Error for ava. */
function isRefused(work: () => unknown): boolean {
  try {
    work()
    return false
  } catch (error) {
    return (
      (error as Error).name === 'DataCloneError' || /could not be cloned|Cannot clone/.test((error as Error).message)
    )
  }
}

const THEN = 'then'
const realm = createContext({})
const foreign = (source: string): any => runInContext(source, realm)
const BYTES = {
  'Uint8Array of another realm': () => foreign('new Uint8Array([104, 105])'),
  'part of a buffer of another realm': () => foreign('new Uint8Array(Uint8Array.of(0, 104, 105, 0).buffer, 1, 2)'),
  'subclass of another realm': () => foreign('new (class Bytes extends Uint8Array {})([104, 105])'),
  'no prototype': () => Object.setPrototypeOf(Uint8Array.of(104, 105), null),
  'with accessors that lie': () =>
    Object.defineProperties(Uint8Array.of(104, 105), { byteLength: { value: 1 }, buffer: { value: 0 } }),
  Buffer: () => Buffer.from('hi')
}

test('bytes are bytes: raw streams, packets, datagrams, heads', async t => {
  for (const [name, make] of Object.entries(BYTES)) {
    const [one, other] = Descriptor.socketpair()
    const left = stream.DescriptorStream.from(one)
    const right = stream.DescriptorStream.from(other)
    left.write(make())
    const file = Descriptor.openSync('/dev/null')
    left.writeWithDescriptors(make(), [file])
    left.end(make())
    let text = ''
    for await (const chunk of right) text += chunk
    t.is(text, 'hihihi', name)
    left.destroy()

    const [a, b] = Descriptor.socketpair({ type: 'seqpacket' })
    const sender = stream.PacketSocket.from(a)
    const receiver = stream.PacketSocket.from(b)
    const packet = once(receiver, 'message')
    await sender.send(make())
    t.is(String((await packet)[0].bytes), 'hi', name)
    sender.destroy()
    receiver.destroy()

    const server = await datagram.bind()
    const client = datagram.unnamed()
    const seen: string[] = []
    const both = new Promise<void>(resolve =>
      server.on('message', ({ data }) => {
        seen.push(String(data))
        if (seen.length === 2) resolve()
      })
    )
    await client.send(make(), { to: server.address! })
    await client.send([make(), 'x', make()], { to: server.address! })
    await both
    t.deepEqual(seen, ['hi', 'hixhi'], name)
    await Promise.all([client.close(), server.close()])

    const [c, d] = Descriptor.socketpair()
    const connection = new Connection(c, make())
    t.is(String(connection.head), 'hi', name)
    const socket = connection.toSocket()
    const taken = await Connection.take(socket, { head: make() })
    t.is(String(taken.head), 'hihi', name)
    taken.close()
    d.close()
  }
})

test('bytes whose memory was taken away are refused, and nothing has moved', async t => {
  const transferred = new Uint8Array(4)
  structuredClone(transferred, { transfer: [transferred.buffer] })
  const buffer = new (ArrayBuffer as any)(8, { maxByteLength: 16 })
  const shortened = new Uint8Array(buffer, 4, 4)
  buffer.resize(4)
  const says = { code: 'ERR_PASSFD_INVALID_ARGUMENT', message: /it is a view of an ArrayBuffer that was transferred/ }
  const [one, other] = Descriptor.socketpair()
  const [packetEnd, otherPackets] = Descriptor.socketpair({ type: 'seqpacket' })
  const raw = stream.DescriptorStream.from(one)
  const packets = stream.PacketSocket.from(packetEnd)
  const socket = datagram.unnamed()
  const { readable, writable } = Descriptor.pipe()
  const reader = readable.toReadable()
  const writer = writable.toWritable()
  for (const bytes of [transferred, shortened]) {
    const descriptors = [Descriptor.openSync('/dev/null')]
    t.throws(() => raw.write(bytes), says)
    t.throws(() => writer.write(bytes), says)
    t.throws(() => raw.writeWithDescriptors(bytes, descriptors), says)
    t.throws(() => void packets.send(bytes, descriptors), says)
    t.throws(() => void socket.send(bytes, { to: { abstract: 'x' }, descriptors }), says)
    t.throws(() => void socket.send(['a', bytes], { to: { abstract: 'x' }, descriptors }), says)
    t.throws(() => new Connection(other, bytes), says)
    t.throws(() => void Connection.take(reader as never, { head: bytes }), says)
    t.false(descriptors[0]!.closed)
    descriptors[0]!.close()
  }
  t.false(other.closed)
  t.false(reader.destroyed)
  for (const each of [raw, packets, socket, reader, writer]) each.destroy()
  for (const each of [other, otherPackets]) each.close()
})

test('what is no Uint8Array is still refused', async t => {
  const [one, other] = Descriptor.socketpair()
  const raw = stream.DescriptorStream.from(one)
  const socket = datagram.unnamed()
  for (const bytes of [
    foreign('new ArrayBuffer(1)'),
    foreign('[1]'),
    foreign('new Uint16Array(1)'),
    { length: 1 },
    new Proxy(new Uint8Array(1), {}),
    Object.create(Uint8Array.prototype)
  ]) {
    t.throws(() => raw.writeWithDescriptors(bytes, []), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    t.throws(() => new Connection(other, bytes), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    if (!Array.isArray(bytes))
      t.throws(() => socket.send(bytes, { to: { abstract: 'x' } }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  }
  raw.destroy()
  socket.destroy()
  other.close()
})

test('authorize may give any thenable', async t => {
  const verdicts: Record<string, (value: unknown) => unknown> = {
    'a promise of another realm': foreign('value => Promise.resolve(value)'),
    'a subclass': value => class Mine extends Promise<unknown> {}.resolve(value),
    'a thenable': value => ({ [THEN]: (resolve: (value: unknown) => void) => setImmediate(resolve, value) }),
    'a function with then': value =>
      Object.assign(() => {}, { [THEN]: (resolve: (value: unknown) => void) => resolve(value) })
  }
  for (const [name, verdict] of Object.entries(verdicts)) {
    const path = socketPath()
    const server = await listen(path, { authorize: () => verdict(true) as never })
    const client = await connect(path, { authorize: () => verdict(true) as never })
    client.destroy()
    await t.throwsAsync(
      connect(path, { authorize: () => verdict(false) as never }),
      { code: 'ERR_PASSFD_UNAUTHORIZED' },
      name
    )
    await server.close()
  }
  const failing = {
    get [THEN]() {
      throw new Error('mine')
    }
  }
  const path = socketPath()
  const server = await listen(path)
  await t.throwsAsync(connect(path, { authorize: () => failing as never }), { code: 'ERR_PASSFD_AUTHORIZE_FAILED' })
  await server.close()
})

/** What npm's abort-controller and jsdom have: no EventTarget of Node's. */
class LibrarySignal {
  aborted = false
  reason: unknown
  readonly #listeners = new Set<() => void>()
  readonly #calledFor = new Map<() => void, () => void>()
  addEventListener(_: string, listener: () => void, { once = false } = {}): void {
    const called = once
      ? () => {
          this.#listeners.delete(called)
          listener()
        }
      : listener
    this.#listeners.add(called)
    this.#calledFor.set(listener, called)
  }
  removeEventListener(_: string, listener: () => void): void {
    this.#listeners.delete(this.#calledFor.get(listener)!)
  }
  get count(): number {
    return this.#listeners.size
  }
  abort(): void {
    this.aborted = true
    for (const listener of [...this.#listeners]) listener()
  }
}

test('a signal of a library is a signal', async t => {
  const asked: LibrarySignal[] = []
  const signal = (): any => {
    const made = new LibrarySignal()
    asked.push(made)
    return made
  }
  const [left, end] = pair<any, any>()
  const right = await connect<any, any>(end)
  const first = signal()
  const waiting = left.request(1, { signal: first })
  first.abort()
  await t.throwsAsync(waiting, { name: 'AbortError' })
  await t.throwsAsync(left.request(1, { signal: first }), { name: 'AbortError' })
  right.destroy()
  left.destroy()
  await Promise.all([left.closed, right.closed])
  const second = signal()
  const server = await listen(socketPath(), { signal: second })
  second.abort()
  t.is((await server.closed)?.name, 'AbortError')
  const third = signal()
  const socket = await datagram.bind({ abstract: `passfd-realm-${process.pid}` }, { signal: third })
  third.abort()
  t.is((await socket.closed)?.name, 'AbortError')
  const fourth = signal()
  const raw = await stream.listen(socketPath(), { signal: fourth })
  fourth.abort()
  t.is((await raw.closed)?.name, 'AbortError')
  const pool = new MemoryPool({ slots: 1, slotSize: 1 })
  const slot = await pool.acquire()
  const fifth = signal()
  const acquired = pool.acquire({ signal: fifth })
  fifth.abort()
  await t.throwsAsync(acquired, { name: 'AbortError' })
  slot.release()
  pool.close()
  for (const [index, { count }] of asked.entries()) t.is(count, 0, `listener ${index}`)
  for (const wrong of [{}, { aborted: true }, 1, 'x', new EventTarget(), () => {}])
    t.throws(() => pair({ signal: wrong as never }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

test('errors of another realm are errors', async t => {
  const [left, end] = pair<any, any>()
  const right = await connect<any, any>(end)
  right.serve(foreign("() => { throw Object.assign(new RangeError('theirs'), { code: 'THEIRS', data: 1 }) }"))
  const error: any = await t.throwsAsync(left.request(1))
  t.like(error.remote, { code: 'THEIRS', message: 'theirs', data: 1 })
  const reason = foreign("new TypeError('over')")
  left.destroy(reason)
  t.is(await left.closed, reason)
  t.like((await right.closed) as object, { remote: { code: 'TypeError', message: 'over' } })
})

test('a URL of a library is a URL: entry and cwd', t => {
  class LibraryUrl {
    readonly #url: URL
    constructor(url: URL) {
      this.#url = url
    }
    get href() {
      return this.#url.href
    }
    get protocol() {
      return this.#url.protocol
    }
    get origin() {
      return this.#url.origin
    }
    get pathname() {
      return this.#url.pathname
    }
  }
  const listeners = { web: { port: 0 } }
  const url: any = new LibraryUrl(pathToFileURL('/bin/true'))
  t.notThrows(
    () => new Supervisor({ entry: url, listeners, spawn: { cwd: new LibraryUrl(pathToFileURL('/')) as never } })
  )
  for (const entry of [{}, { href: 'file:///x' }, 1, null, []])
    t.throws(() => new Supervisor({ entry: entry as never, listeners }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})

async function alive(): Promise<[objects: object[], end: () => Promise<unknown>]> {
  const [left, theirs] = pair<any, any>()
  const right = await connect<any, any>(theirs)
  const [one, other] = Descriptor.socketpair()
  const [a, b] = Descriptor.socketpair()
  const [packets, rest] = Descriptor.socketpair({ type: 'seqpacket' })
  const connection = new Connection(one)
  const raw = stream.DescriptorStream.from(a)
  const packet = stream.PacketSocket.from(packets)
  const server = await listen(socketPath())
  const rawServer = await stream.listen(socketPath())
  const socket = datagram.unnamed()
  const memory = SharedMemory.create(1)
  const pool = new MemoryPool({ slots: 1, slotSize: 1 })
  const slot = await pool.acquire()
  const reader = new PoolReader()
  const file = Descriptor.openSync(temporaryPath(), 'w+').toFile()
  const supervisor = new Supervisor({ entry: '/bin/true', listeners: { web: { port: 0 } } })
  const drop = datagram.createSocket('unix_dgram')
  const attached = datagram.attach(drop)
  const objects = [
    left,
    connection,
    raw,
    packet,
    server,
    rawServer,
    socket,
    memory,
    pool,
    slot,
    reader,
    file,
    supervisor,
    attached,
    other
  ]
  const end = async () => {
    slot.release()
    for (const each of [connection, memory, pool, reader, other, b, rest, drop]) each.close()
    for (const each of [left, right, raw, packet, socket]) each.destroy()
    await Promise.all([left.closed, right.closed, server.close(), rawServer.close(), file.close()])
  }
  return [objects, end]
}

// Node 20 can't: `.ci/run full` runs this file on later versions
const inNode = 'markAsUncloneable' in threads ? test : () => {}

inNode('what is alive can not be cloned or posted, and stays as it is', async t => {
  const [objects, end] = await alive()
  const { port1, port2 } = new threads.MessageChannel()
  port2.on('message', () => t.fail())
  for (const object of objects) {
    for (const value of [object, { deep: [object] }, new Map([[1, object]])]) {
      t.true(isRefused(() => structuredClone(value)))
      t.true(isRefused(() => port1.postMessage(value)))
    }
  }
  port1.close()
  const descriptor = objects.at(-1) as Descriptor
  t.false(descriptor.closed)
  t.is(descriptor.kind, 'unix-stream')
  await end()
})
