/** A peer that speaks the wire by hand, rightly or wrongly, over a real socket, and reads what it is answered with plain msgpackr. */
import { addExtension, Packr } from 'msgpackr'
import { errorCodes } from '../../src/base/errors.ts'
import { SocketWire, type WireOwner } from '../../src/channel/wire.ts'
import { own } from '../../src/descriptor/descriptor.ts'
import { type Channel, type ChannelOptions, connect } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'

export const HELLO = 0
export const MESSAGE = 1
export const REQUEST = 2
export const REPLY = 3
export const FAULT = 4
export const CANCEL = 5
export const CREDIT = 6
export const TAKEN = 7
export const GOODBYE = 8
export const DEFINITIONS = 9

const HEADER = 12
const NO_BYTES = Buffer.alloc(0)

/** A descriptor inside a body: the index into those of its frame. */
export class Place {
  readonly index: number
  constructor(index: number) {
    this.index = index
  }
}
addExtension({
  Class: Place,
  type: 70,
  pack: ({ index }: Place) => Buffer.of(index),
  unpack: ([index]: Uint8Array) => new Place(index!)
} as never)

const plain = new Packr({ useRecords: false, mapsAsObjects: true })

/** A value as plain msgpack, in bytes of its own. */
export function body(value: unknown): Buffer {
  return Buffer.from(plain.pack(value))
}

/** Header fields beyond kind and body; `length` is what the header claims. */
export interface Fields {
  count?: number
  flags?: number
  id?: number
  length?: number
}

export function frame(
  kind: number,
  content: Uint8Array = NO_BYTES,
  { count = 0, flags = 0, id = 0, length = content.length }: Fields = {}
): Buffer {
  const header = Buffer.alloc(HEADER)
  header.writeUInt32LE(length, 0)
  header[4] = kind
  header[5] = count
  header.writeUInt16LE(flags, 6)
  header.writeUInt32LE(id, 8)
  return Buffer.concat([header, content])
}

/** A hello with limits as generous as passfd's own, unless `fields` says otherwise. */
export function hello(fields: object = {}): Buffer {
  const limits = { maxMessage: 2 ** 21, maxDescriptors: 253, window: 2 ** 22, descriptorCost: 1 }
  return frame(HELLO, body({ version: 1, agent: 'raw', ...limits, ...fields }))
}

export function message(value: unknown, count = 0): Buffer {
  return frame(MESSAGE, body(value), { count })
}

/** `allowance`: how many descriptors the reply may carry. */
export function request(id: number, value: unknown, count = 0, allowance = 1): Buffer {
  return frame(REQUEST, body(value), { id, count, flags: allowance << 8 })
}

export function reply(id: number, value: unknown, count = 0): Buffer {
  return frame(REPLY, body(value), { id, count })
}

/** What confirms `count` descriptors. */
export function taken(count: number): Buffer {
  return frame(TAKEN, NO_BYTES, { id: count })
}

export function goodbye(code = '', message = ''): Buffer {
  return frame(GOODBYE, body(code === '' ? {} : { code, message }))
}

/** `count` places, for a value that uses each descriptor of its frame once. */
export function places(count: number): Place[] {
  return Array.from({ length: count }, (_, index) => new Place(index))
}

export interface ReceivedFrame {
  kind: number
  count: number
  flags: number
  id: number
  /** Decoded when it is looked at. */
  readonly value: any
  /** The raw peer's to close: it does so when it ends, unless `drop` did. */
  fds: number[]
  /** Where in the stream the frame begins. */
  at: number
}

interface Reader {
  kinds: readonly number[]
  resolve(frame: ReceivedFrame): void
  reject(error: Error): void
}

export class RawPeer {
  readonly fd: number
  /** What every read brought, and where in the stream it began. */
  readonly reads: { at: number; bytes: number; descriptors: number }[] = []
  /** How the peer's stream ended: 0 end of file, or -errno. */
  readonly ended: Promise<number>
  readonly #wire: SocketWire
  #end!: (result: number) => void
  #bytes = NO_BYTES
  #consumed = 0
  #arrived: number[] = []
  readonly #received = new Set<number>()
  readonly #frames: ReceivedFrame[] = []
  readonly #readers: Reader[] = []
  #result: number | undefined
  #writable: (() => void) | undefined

  /** `fd` is held by the shim, and the peer's own from now on. Nothing is read before `start`. */
  constructor(fd: number) {
    this.fd = fd
    this.#wire = new SocketWire(fd)
    this.ended = new Promise(resolve => {
      this.#end = resolve
    })
  }

  /** A peer that has connected to a listening path and said nothing yet. */
  static connect(path: string): RawPeer {
    const fd = mustSucceed(native.socket(1), 'socket')
    mustSucceed(native.connect(fd, Buffer.from(path)), 'connect')
    return new RawPeer(fd)
  }

  /** Begins to read. */
  start(): this {
    const owner: WireOwner = {
      onReadable: (length, fds, first, count) => this.#onReadable(length, fds.slice(first, first + count)),
      onWritable: () => {
        this.#wire.awaitWritable(false)
        this.#writable?.()
      }
    }
    this.#wire.start(owner)
    return this
  }

  /** One write; throws unless the socket takes all of it. The numbers stay the caller's. */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    const sent = native.send(this.fd, bytes, 0, bytes.length, Int32Array.from(fds), 0, fds.length)
    if (sent !== bytes.length) throw new Error(`sent ${sent} of ${bytes.length} bytes`)
  }

  /** As many writes as it takes; the numbers go with the first. The peer has to be started. */
  async sendAll(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    let count = fds.length
    for (let at = 0; at < bytes.length; ) {
      const sent = native.send(this.fd, bytes, at, bytes.length, Int32Array.from(fds), 0, count)
      if (sent >= 0) {
        at += sent
        count = 0
        continue
      }
      if (sent !== -11) throw new Error(`send: ${sent}`)
      await new Promise<void>(resolve => {
        this.#writable = resolve
        this.#wire.awaitWritable(true)
      })
    }
  }

  /** The next frame of one of these kinds (any, without arguments); those before it are passed over. Rejects if the stream ends first. */
  next(...kinds: number[]): Promise<ReceivedFrame> {
    return new Promise((resolve, reject) => {
      this.#readers.push({ kinds, resolve, reject })
      this.#serveReaders()
    })
  }

  /** All frames that are there and not yet passed over. */
  rest(): ReceivedFrame[] {
    return this.#frames.splice(0)
  }

  /** Closes the descriptors of a frame. */
  drop({ fds }: ReceivedFrame): void {
    for (const fd of fds) {
      native.close(fd)
      this.#received.delete(fd)
    }
  }

  /** Writes no more. */
  shutdown(): void {
    native.shutdown(this.fd, 1)
  }

  /** Closes everything; twice does no harm. */
  close(): void {
    for (const fd of this.#received) native.close(fd)
    this.#received.clear()
    if (!this.#wire.ended) this.#wire.end()
  }

  #onReadable(length: number, fds: Int32Array): void {
    this.#arrived.push(...fds)
    for (const fd of fds) this.#received.add(fd)
    if (length <= 0) {
      this.#result = length
      if (!this.#wire.ended) {
        this.#wire.end()
        this.#end(length)
      }
      this.#serveReaders()
      return
    }
    this.reads.push({ at: this.#consumed + this.#bytes.length, bytes: length, descriptors: fds.length })
    const { area, headroom } = this.#wire
    this.#bytes = Buffer.concat([this.#bytes, area.subarray(headroom, headroom + length)])
    while (this.#parse());
    this.#serveReaders()
  }

  #parse(): boolean {
    const bytes = this.#bytes
    if (bytes.length < HEADER) return false
    const length = bytes.readUInt32LE(0)
    const flags = bytes.readUInt16LE(6)
    const size = HEADER + length + (flags & 7)
    if (bytes.length < size) return false
    const count = bytes[5]!
    const content = Buffer.from(bytes.subarray(HEADER, HEADER + length))
    this.#frames.push({
      kind: bytes[4]!,
      count,
      flags,
      id: bytes.readUInt32LE(8),
      get value() {
        return length === 0 ? undefined : plain.unpack(content)
      },
      fds: this.#arrived.splice(0, count),
      at: this.#consumed
    })
    this.#consumed += size
    this.#bytes = bytes.subarray(size)
    return true
  }

  #serveReaders(): void {
    for (let reader = this.#readers[0]; reader !== undefined; reader = this.#readers[0]) {
      const { kinds } = reader
      const index = kinds.length === 0 ? 0 : this.#frames.findIndex(({ kind }) => kinds.includes(kind))
      const found = index < 0 ? undefined : this.#frames.splice(0, index + 1)[index]
      if (found !== undefined) reader.resolve(found)
      else if (this.#result !== undefined)
        reader.reject(new Error(`the stream ended (${this.#result}) before a frame of kind ${kinds.join(' or ')}`))
      else return
      this.#readers.shift()
    }
  }
}

/** A channel and the raw peer at its other end, both hellos said, nothing read after that. `fields`: of the peer's hello. */
export async function deafPair<In = unknown, Out = unknown>(
  options: ChannelOptions<In> = {},
  fields: object = {}
): Promise<{ channel: Channel<In, Out>; peer: RawPeer }> {
  const [ours, theirs] = socketpair()
  const peer = new RawPeer(theirs)
  peer.send(hello(fields))
  return { channel: await connect<In, Out>(own(ours), options), peer }
}

/** The same, reading. */
export async function rawPair<In = unknown, Out = unknown>(
  options: ChannelOptions<In> = {},
  fields: object = {}
): Promise<{ channel: Channel<In, Out>; peer: RawPeer }> {
  const { channel, peer } = await deafPair<In, Out>(options, fields)
  await peer.start().next(HELLO)
  return { channel, peer }
}

/** Two connected sockets, held by the shim. */
export function socketpair(type = 1): [number, number] {
  const ends = new Int32Array(2)
  mustSucceed(native.socketpair(type, ends), 'socketpair')
  return [ends[0]!, ends[1]!]
}

/** The full code of an error in the table; throws for one that isn't documented. */
export function documented(name: string): string {
  const code = `ERR_PASSFD_${name}` as const
  if (!errorCodes.includes(code)) throw new Error(`${code} is not in the table of errors`)
  return code
}

function mustSucceed(result: number, call: string): number {
  if (result < 0) throw new Error(`${call}: ${result}`)
  return result
}
