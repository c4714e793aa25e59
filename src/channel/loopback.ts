/** Two connected wires in this process, without a socket and without descriptors: for channels where the shim is missing. */
import { setImmediate } from 'node:timers'
import { EAGAIN, EPIPE } from '../base/errno.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { AREA, HEADROOM } from '../os/loop.ts'
import type { Wire, WireOwner } from './wire.ts'

/** The most bytes that wait to be read. */
const CAPACITY = 1024 * 1024
const NONE = new Int32Array(0)

/** One end. What it writes arrives at the other end in a later turn of the event loop. */
export class LoopbackWire implements Wire {
  readonly area = AREA
  readonly headroom = HEADROOM
  readonly closing = 0
  #peer!: LoopbackWire
  #owner: WireOwner | undefined
  readonly #chunks: Buffer[] = []
  #unread = 0
  /** Nothing more will be written to it. */
  #isCut = false
  #ended = false
  #scheduled = false
  #awaitsWritable = false
  #target: { buffer: Buffer; at: number; end: number } | undefined
  /** Keeps the process running. */
  #running: NodeJS.Timeout | undefined
  #refed = true

  static pair(): [LoopbackWire, LoopbackWire] {
    const [left, right] = [new LoopbackWire(), new LoopbackWire()]
    left.#peer = right
    right.#peer = left
    return [left, right]
  }

  start(owner: WireOwner): void {
    this.#owner = owner
    this.#running = setInterval(() => {}, MAX_TIMEOUT)
    if (!this.#refed) this.#running.unref()
    this.#schedule()
  }

  send(bytes: Uint8Array, start: number, end: number): number {
    return this.#peer.#put([bytes.subarray(start, end)], this.#isOver)
  }

  sendVector(chunks: readonly Uint8Array[], skip: number): number {
    const [first, ...others] = chunks as [Uint8Array, ...Uint8Array[]]
    return this.#peer.#put([first.subarray(skip), ...others], this.#isOver)
  }

  awaitWritable(on: boolean): void {
    this.#awaitsWritable = on
    if (on) this.#schedule()
  }

  target(buffer: Buffer | null, start: number, end: number): void {
    this.#target = buffer === null ? undefined : { buffer, at: start, end }
  }

  shutdown(): number {
    this.#peer.#isCut = true
    this.#peer.#schedule()
    return 0
  }

  end(): void {
    this.#ended = true
    this.#owner = undefined
    clearInterval(this.#running)
    this.shutdown()
  }

  /** It carries none. */
  discard(fds: readonly number[], done: ((count: number) => void) | undefined): void {
    done?.(fds.length)
  }

  closeHere(): boolean {
    return false
  }

  spin(): void {}

  ref(): void {
    this.#refed = true
    this.#running?.ref()
  }

  unref(): void {
    this.#refed = false
    this.#running?.unref()
  }

  /** Whether the other end has ended: what is written is not read. */
  get #isOver(): boolean {
    return this.#peer.#ended || this.#peer.#isCut
  }

  /** Copies what arrives, because the writer uses its buffers again. Returns how many bytes it took, or -errno. */
  #put(chunks: readonly Uint8Array[], isOver: boolean): number {
    if (isOver) return EPIPE
    const before = this.#unread
    for (const chunk of chunks) {
      const length = Math.min(chunk.length, CAPACITY - this.#unread)
      if (length > 0) this.#chunks.push(Buffer.from(chunk.subarray(0, length)))
      this.#unread += length
    }
    this.#schedule()
    return this.#unread > before ? this.#unread - before : EAGAIN
  }

  #schedule(): void {
    if (this.#scheduled || this.#owner === undefined) return
    this.#scheduled = true
    const turn = setImmediate(() => {
      this.#scheduled = false
      this.#turn()
    })
    if (!this.#refed) turn.unref()
  }

  #turn(): void {
    if (this.#awaitsWritable && this.#peer.#unread < CAPACITY) this.#owner?.onWritable()
    if (this.#owner === undefined) return
    if (this.#unread > 0) this.#read(this.#owner)
    else if (this.#isCut) this.#owner.onReadable(0, NONE, 0, 0, false)
    if (this.#unread > 0 || this.#awaitsWritable) this.#schedule()
  }

  /** Into the target first, then into the area. */
  #read(owner: WireOwner): void {
    const target = this.#target
    const aimed = target === undefined ? 0 : target.end - target.at
    const most = aimed + AREA.length - HEADROOM
    let length = 0
    while (length < most && this.#chunks.length > 0) {
      const chunk = this.#chunks[0]!
      const direct = Math.max(0, Math.min(aimed - length, chunk.length))
      if (direct > 0) chunk.copy(target!.buffer, target!.at + length, 0, direct)
      const rest = Math.min(chunk.length - direct, most - length - direct)
      chunk.copy(AREA, HEADROOM + Math.max(0, length - aimed), direct, direct + rest)
      length += direct + rest
      if (direct + rest === chunk.length) this.#chunks.shift()
      else this.#chunks[0] = chunk.subarray(direct + rest)
    }
    if (target !== undefined) target.at += Math.min(length, aimed)
    this.#unread -= length
    if (this.#peer.#awaitsWritable) this.#peer.#schedule()
    owner.onReadable(length, NONE, 0, 0, false)
  }
}
