/** A Channel over a fake wire whose other end is the test itself: it says frames, and hears what comes in words. */
import { setImmediate as turn } from 'node:timers/promises'
import type { ExecutionContext } from 'ava'
import { unpack } from 'msgpackr'
import { type Channel, createChannel, type RequestOptions, startChannel } from '../../src/channel/channel.ts'
import type { Message } from '../../src/channel/message.ts'
import { type ChannelOptions, channelLimits } from '../../src/channel/options.ts'
import { type Descriptor, own } from '../../src/descriptor/descriptor.ts'
import { FakeSocket } from './fake-wire.ts'
import { Ledger } from './ledger.ts'
import { CANCEL, CREDIT, FAULT, frame, GOODBYE, hello } from './raw-peer.ts'
import { test } from './test.ts'
import { VirtualClock } from './virtual-clock.ts'

const NAMES = ['hello', 'message', 'request', 'reply', 'fault', 'cancel', 'credit', 'taken', 'goodbye']

export interface BenchOptions extends ChannelOptions<any> {
  /** Fields of the other end's hello; null: it says none by itself. */
  hello?: object | null
  /** Bytes that the socket holds. */
  capacity?: number
}

export class Bench {
  readonly ledger = new Ledger(false)
  readonly clock = new VirtualClock()
  readonly channel: Channel<any, any>
  /** What came back: state and number of descriptors. */
  readonly returned: string[] = []
  /** How the channel has ended: 'clean' or the error's code. */
  outcome = 'open'
  /** Descriptors read whose frames are not complete. */
  ahead = 0
  /** The channel writes no more. */
  shutDown = false
  readonly near: FakeSocket
  readonly #far: FakeSocket
  #bytes: Buffer = Buffer.alloc(0)
  readonly #uninstall: () => void
  /** Of all frames heard: the length of the body. */
  readonly lengths: [number, string][] = []
  /** And the body, if it is plain and without descriptors. */
  readonly bodies: unknown[] = []

  constructor({ hello: fields = {}, capacity = 1 << 20, ...options }: BenchOptions) {
    this.#uninstall = this.ledger.install()
    this.clock.install()
    const { left, right } = FakeSocket.pair(this.ledger, capacity)
    this.near = left
    this.#far = right
    this.channel = createChannel({
      wire: left,
      peer: { pid: 1, uid: 0, gid: 0, groups: [], agent: '', pidfd: noPidfd },
      limits: channelLimits(options),
      options
    })
    this.channel.on('returned', ({ state, descriptors }) => this.returned.push(`${state} ${descriptors.length}`))
    this.channel.on('close', error => {
      this.outcome = error === undefined ? 'clean' : ((error as { code?: string }).code ?? error.message)
    })
    right.start({ onReadable: (length, _fds, _first, count) => this.#read(length, count), onWritable: () => {} })
    startChannel(this.channel, options.handshakeTimeout ?? 0)
    if (fields !== null) left.put(hello(fields), [])
  }

  /** A descriptor to send. */
  file(): Descriptor {
    return own(this.ledger.open('left', 'given'))
  }

  files(count: number): Descriptor[] {
    return Array.from({ length: count }, () => this.file())
  }

  /** Takes messages as they come, and lets them go. */
  consume(): Message[] {
    const messages: Message[] = []
    this.channel.on('message', message => void messages.push(message))
    return messages
  }

  /** Requests; what becomes of it is 'open', then the answer or the error's code. */
  ask(value: unknown = 'ask', options: RequestOptions = {}): { outcome: unknown } {
    const asked = { outcome: 'open' as unknown }
    this.channel.request(value, { timeout: 0, ...options }).then(
      answer => {
        asked.outcome = answer
      },
      error => {
        asked.outcome = error.code
      }
    )
    return asked
  }

  /** The other end writes these at once, with so many descriptors at their first byte. */
  async say(frames: Uint8Array | Uint8Array[], descriptors = 0): Promise<void> {
    const references = Array.from({ length: descriptors }, (_, index) => ({ object: -index - 1, received: false }))
    this.near.put(Buffer.concat([frames].flat()), references)
    await this.settle()
  }

  /** What the channel has written since the last time: kind, id or amount, '+' descriptors, the code of an error. */
  async heard(): Promise<string[]> {
    await this.settle()
    return this.frames()
  }

  /** The same, of what has been read already. */
  frames(): string[] {
    const frames: string[] = []
    for (;;) {
      const bytes = this.#bytes
      const size = bytes.length < 12 ? 12 : 12 + bytes.readUInt32LE(0) + (bytes[6]! & 7)
      if (bytes.length < size) return frames
      this.#bytes = bytes.subarray(size)
      this.ahead -= bytes[5]!
      const text = describe(bytes.subarray(0, size))
      frames.push(text)
      const length = bytes.readUInt32LE(0)
      this.lengths.push([length, text])
      this.bodies.push(
        length === 0 || bytes[5]! > 0 || bytes[6]! & 8 ? undefined : unpack(bytes.subarray(12, 12 + length))
      )
    }
  }

  /** The other end reads so many bytes and no more. */
  async hear(bytes: number): Promise<void> {
    if (this.#far.readable) this.#far.read(bytes)
    await this.settle(true)
  }

  /** The other end writes no more. */
  async hangUp(): Promise<void> {
    this.#far.shutdown()
    await this.settle()
  }

  /** The other end closes its socket without having read everything. */
  async reset(): Promise<void> {
    this.#far.end()
    this.#far.unread = 1
    this.#far.finishClose()
    await this.settle()
  }

  /** Until nothing more happens by itself. `deaf`: the other end reads nothing. */
  async settle(deaf = false): Promise<void> {
    for (;;) {
      await turn()
      if (this.near.readable) this.near.read(1 << 20)
      else if (this.near.writable) this.near.becomeWritable()
      else if (!deaf && this.#far.readable) this.#far.read(1 << 20)
      else if (this.near.closings.length > 0) this.near.finishClosing()
      else break
    }
    await turn()
  }

  async pass(ms: number): Promise<void> {
    this.clock.advance(ms)
    await this.settle()
  }

  async finish(t: ExecutionContext, label = ''): Promise<void> {
    this.channel.destroy()
    await this.settle()
    this.clock.uninstall()
    this.#uninstall()
    t.deepEqual(this.ledger.problems, [], label)
    t.deepEqual(
      this.ledger.rest.filter(line => line.includes('of left')),
      [],
      label
    )
    t.is(this.clock.waiting, 0, 'timers are left')
  }

  #read(length: number, count: number): void {
    this.ahead += count
    if (length <= 0) {
      this.shutDown = true
      this.#far.attached = false
    } else {
      const { area, headroom } = this.#far
      this.#bytes = Buffer.concat([this.#bytes, area.subarray(headroom, headroom + length)])
    }
  }
}

/** A test on a bench of its own, after both hellos (if the other end says one). */
export function benchTest(
  title: string,
  options: BenchOptions,
  body: (t: ExecutionContext, bench: Bench) => Promise<void>
): void {
  test(title, async t => {
    const bench = new Bench(options)
    try {
      t.deepEqual(await bench.heard(), ['hello'])
      await body(t, bench)
    } finally {
      await bench.finish(t)
    }
  })
}

export function cancel(id: number): Buffer {
  return frame(CANCEL, undefined, { id })
}

export function credit(id: number): Buffer {
  return frame(CREDIT, undefined, { id })
}

function describe(bytes: Buffer): string {
  const kind = bytes[4]!
  const id = bytes.readUInt32LE(8)
  const named = kind === 2 || (kind >= 3 && kind <= 7) ? ` ${id}` : ''
  const count = bytes[5] === 0 ? '' : ` +${bytes[5]}`
  const length = bytes.readUInt32LE(0)
  const { code } =
    (kind === FAULT || kind === GOODBYE) && length > 0
      ? (unpack(bytes.subarray(12, 12 + length)) as { code?: string })
      : {} // prettier-ignore
  return `${NAMES[kind]}${named}${count}${code === undefined ? '' : ` ${code.replace('ERR_PASSFD_', '')}`}`
}

function noPidfd(): never {
  throw new Error('there is no process')
}
