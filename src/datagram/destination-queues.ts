/**
 * Datagrams that can't leave yet. Each destination has its lane, so that one that doesn't read holds up nobody else, and its datagrams
 * leave in order. What a lane waits for:
 *
 *     EAGAIN, the destination's queue is full      a gauge: a second socket connected to it, writable when there is room
 *     EAGAIN, this socket's send buffer is full    this socket being writable
 *     ENOBUFS, ENOMEM, ETOOMANYREFS                some milliseconds: no event reports the end of that
 *
 * The kernel doesn't say which EAGAIN it was, and poll(2) of a socket that is not connected knows nothing of its destinations' queues
 * (unix(7), unix_dgram_poll in net/unix/af_unix.c). So a lane tries one after the other; whichever is not the reason is over at once.
 */

import { whenAborted } from '../base/abort-signals.ts'
import { type Deferred, deferred, quiet, RESOLVED } from '../base/deferred.ts'
import { EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS } from '../base/errno.ts'
import { abortError, PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { keepAlive } from '../base/timers.ts'
import { type Descriptor, isForeign, moveOut } from '../descriptor/descriptor.ts'
import { handBack } from '../descriptor/outgoing.ts'
import { discard, Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { DATAGRAM } from '../os/socket-name.ts'
import type { Destination } from './address.ts'
import type { QueueLimits } from './options.ts'

/** The socket that an outbox sends through. */
export interface Port {
  /** Sends now. Bytes sent, -errno if that may be tried again (`isBackPressure`), or why it can't be sent. */
  transmit(to: Destination | undefined, bytes: Uint8Array, fds: Int32Array, count: number): number | Error
  /** The address to which a gauge for that destination connects; undefined if this socket's own readiness reports room there. */
  gaugeFor(to: Destination | undefined): Destination | undefined
  /** Calls the outbox's `writable` when the socket is, from now on or no more; undefined if it can't. */
  readonly awaitWritable: ((on: boolean) => void) | undefined
}

/** What a datagram in the queue counts besides its bytes. */
const OVERHEAD = 256
/** Gauges of one outbox; further lanes are tried again after a while. */
const MAX_GAUGES = 64
/** In ms. */
const RETRY = [1, 2, 5, 10, 20, 50]

const fds = new Int32Array(MAX_RIGHTS)

export function isBackPressure(errno: number): boolean {
  return errno === EAGAIN || errno === ENOBUFS || errno === ENOMEM || errno === ETOOMANYREFS
}

interface Letter {
  readonly bytes: Uint8Array
  readonly descriptors: readonly Descriptor[]
  readonly fds: readonly number[]
  readonly foreign: boolean
  readonly sent: Deferred
  /** Stops looking at its signal. */
  release(): void
}

const BY = "a socket's send()"
const FULL = {
  maxQueued: 'The destination does not keep up, and its queue is full of bytes',
  maxQueuedTotal: 'The destinations do not keep up, and their queues are full of bytes',
  maxQueuedDescriptors: 'The destinations do not keep up, and their queues are full of descriptors'
} as const

interface Lane {
  readonly to: Destination | undefined
  readonly letters: Letter[]
  /** As `maxQueued` counts. */
  size: number
  waitsFor: 'nothing' | 'gauge' | 'own' | 'timer'
  /** How often waiting was in vain since something has left. */
  fruitless: number
  gauge: Gauge | undefined
  timer: NodeJS.Timeout | undefined
}

export class Outbox {
  readonly #port: Port
  readonly #limits: QueueLimits
  readonly #lanes = new Map<string, Lane>()
  #size = 0
  #descriptors = 0
  #gauges = 0
  /** Lanes that do. */
  #waitForOwn = 0
  #turn = 0
  #referenced = true
  #empty: Deferred | undefined

  constructor(port: Port, limits: QueueLimits) {
    this.#port = port
    this.#limits = limits
  }

  /** Datagrams in the queue. */
  get length(): number {
    let count = 0
    for (const { letters } of this.#lanes.values()) count += letters.length
    return count
  }

  /**
   * Sends now or later. The descriptors move; if it can't be sent they come back with the rejection. Throws ERR_PASSFD_QUEUE_FULL,
   * and then nothing has moved. All descriptors are open, and at most MAX_RIGHTS.
   */
  send(
    to: Destination | undefined,
    bytes: Uint8Array,
    descriptors: readonly Descriptor[],
    signal: AbortSignal | undefined
  ): Promise<void> {
    const key = to?.key ?? ''
    let lane = this.#lanes.get(key)
    // The lane that waits for this socket's buffer gets it first
    if (lane === undefined && this.#waitForOwn === 0) {
      for (const [index, descriptor] of descriptors.entries()) fds[index] = descriptor.borrow()
      const result = this.#port.transmit(to, bytes, fds, descriptors.length)
      if (result instanceof Error) return quiet(Promise.reject(result))
      if (result >= 0) {
        const foreign = descriptors.some(isForeign)
        const numbers = descriptors.map(descriptor => moveOut(descriptor, BY))
        closeAll(numbers, foreign)
        return RESOLVED
      }
      this.#checkRoom(undefined, bytes.length, descriptors.length)
      lane = this.#addLane(key, to)
      this.#push(lane, bytes, descriptors, signal)
      this.#wait(lane, result)
    } else {
      this.#checkRoom(lane, bytes.length, descriptors.length)
      const isNew = lane === undefined
      lane ??= this.#addLane(key, to)
      this.#push(lane, bytes, descriptors, signal)
      if (isNew) this.#waitFor(lane, 'own')
    }
    return lane.letters.at(-1)!.sent.promise
  }

  /** The port says that the socket is writable. */
  writable(): void {
    const waiting = [...this.#lanes.values()].filter(({ waitsFor }) => waitsFor === 'own')
    for (const lane of waiting) this.#waitFor(lane, 'nothing')
    this.#flush(waiting)
  }

  /** Resolves when nothing is queued. */
  whenEmpty(): Promise<void> {
    if (this.#lanes.size === 0) return RESOLVED
    this.#empty ??= deferred()
    return this.#empty.promise
  }

  /** Whatever is queued is not sent any more. */
  end(error: Error): void {
    for (const lane of [...this.#lanes.values()])
      while (lane.letters.length > 0) this.#fail(lane, lane.letters[0]!, error)
  }

  /** Whether what is queued keeps the process running. */
  keepAlive(on: boolean): void {
    this.#referenced = on
    for (const { gauge, timer } of this.#lanes.values()) {
      keepAlive(timer, on)
      gauge?.keepAlive(on)
    }
  }

  // --- the queue

  #checkRoom(lane: Lane | undefined, bytes: number, descriptors: number): void {
    const { maxQueued, maxQueuedTotal, maxQueuedDescriptors } = this.#limits
    const size = bytes + OVERHEAD
    const full = (queued: number, limit: number, option: 'maxQueued' | 'maxQueuedTotal' | 'maxQueuedDescriptors') =>
      new PassfdError('QUEUE_FULL', {
        what: FULL[option],
        queued,
        limit,
        option,
        remedy: 'Await send() before sending more'
      })
    if (lane !== undefined && lane.size + size > maxQueued) throw full(lane.size, maxQueued, 'maxQueued')
    if (this.#size > 0 && this.#size + size > maxQueuedTotal) throw full(this.#size, maxQueuedTotal, 'maxQueuedTotal')
    if (descriptors > 0 && this.#descriptors + descriptors > maxQueuedDescriptors)
      throw full(this.#descriptors, maxQueuedDescriptors, 'maxQueuedDescriptors')
  }

  #addLane(key: string, to: Destination | undefined): Lane {
    const lane: Lane = {
      to,
      letters: [],
      size: 0,
      waitsFor: 'nothing',
      fruitless: 0,
      gauge: undefined,
      timer: undefined
    }
    this.#lanes.set(key, lane)
    return lane
  }

  #push(lane: Lane, bytes: Uint8Array, descriptors: readonly Descriptor[], signal: AbortSignal | undefined): void {
    const sent = deferred()
    const letter: Letter = {
      bytes: Uint8Array.prototype.slice.call(bytes), // the caller may change its own
      descriptors: [...descriptors], // the caller may change its own meanwhile
      foreign: descriptors.some(isForeign),
      fds: descriptors.map(descriptor => moveOut(descriptor, BY)),
      sent,
      release: whenAborted(signal, () => this.#fail(lane, letter, abortError(signal!)))
    }
    lane.letters.push(letter)
    this.#count(lane, letter, 1)
  }

  /** It leaves the queue. */
  #remove(lane: Lane, letter: Letter): void {
    lane.letters.splice(lane.letters.indexOf(letter), 1)
    letter.release()
    this.#count(lane, letter, -1)
    if (lane.letters.length > 0) return
    this.#stopWaiting(lane)
    this.#closeGauge(lane)
    this.#lanes.delete(lane.to?.key ?? '')
    if (this.#lanes.size > 0) return
    this.#empty?.resolve()
    this.#empty = undefined
  }

  #count(lane: Lane, { bytes, fds }: Letter, sign: 1 | -1): void {
    const size = sign * (bytes.length + OVERHEAD)
    lane.size += size
    this.#size += size
    this.#descriptors += sign * fds.length
  }

  #fail(lane: Lane, letter: Letter, error: Error): void {
    this.#remove(lane, letter)
    handBack(letter.descriptors, letter.fds)
    letter.sent.reject(error)
  }

  // --- sending

  /** One of each lane in turn, while they have any and there is room for it. */
  #flush(lanes: Lane[]): void {
    const first = lanes.length === 0 ? 0 : this.#turn++ % lanes.length
    let active = [...lanes.slice(first), ...lanes.slice(0, first)]
    while (active.length > 0) active = active.filter(lane => this.#sendOne(lane))
  }

  /** Whether the lane can go on. */
  #sendOne(lane: Lane): boolean {
    const [letter] = lane.letters
    if (letter === undefined || lane.waitsFor !== 'nothing') return false
    fds.set(letter.fds)
    const result = this.#port.transmit(lane.to, letter.bytes, fds, letter.fds.length)
    if (result instanceof Error) this.#fail(lane, letter, result)
    else if (result < 0) {
      this.#wait(lane, result)
      return false
    } else {
      lane.fruitless = 0
      this.#remove(lane, letter)
      closeAll(letter.fds, letter.foreign)
      letter.sent.resolve()
    }
    return lane.letters.length > 0
  }

  // --- waiting

  #wait(lane: Lane, errno: number): void {
    const round = lane.fruitless++
    const { gaugeFor, awaitWritable } = this.#port
    const at = gaugeFor.call(this.#port, lane.to)
    const steps = [at && 'gauge', awaitWritable && 'own', 'timer'].filter(step => step !== undefined)
    const step = errno === EAGAIN ? steps[round % steps.length] : 'timer'
    if (step !== 'gauge') this.#closeGauge(lane)
    if (step === 'gauge') this.#awaitGauge(lane, at!)
    else if (step === 'own') this.#waitFor(lane, 'own')
    else this.#awaitTimer(lane, RETRY[Math.min(Math.floor(round / steps.length), RETRY.length - 1)]!)
  }

  #waitFor(lane: Lane, what: Lane['waitsFor']): void {
    const before = this.#waitForOwn
    if (lane.waitsFor === 'own') this.#waitForOwn--
    if (what === 'own') this.#waitForOwn++
    lane.waitsFor = what
    if (before > 0 !== this.#waitForOwn > 0) this.#port.awaitWritable?.(before === 0)
  }

  #awaitTimer(lane: Lane, delay: number): void {
    this.#waitFor(lane, 'timer')
    lane.timer = setTimeout(() => this.#goOn(lane), delay)
    if (!this.#referenced) keepAlive(lane.timer, false)
  }

  #awaitGauge(lane: Lane, at: Destination): void {
    if (lane.gauge === undefined) {
      if (this.#gauges < MAX_GAUGES) lane.gauge = Gauge.make(at, () => this.#goOn(lane))
      if (lane.gauge === undefined) {
        this.#awaitTimer(lane, RETRY[0]!)
        return
      }
      this.#gauges++
      lane.gauge.keepAlive(this.#referenced)
    }
    this.#waitFor(lane, 'gauge')
    lane.gauge.await(true)
  }

  #closeGauge(lane: Lane): void {
    if (lane.gauge === undefined) return
    lane.gauge.close()
    lane.gauge = undefined
    this.#gauges--
  }

  #stopWaiting(lane: Lane): void {
    clearTimeout(lane.timer)
    lane.timer = undefined
    lane.gauge?.await(false)
    this.#waitFor(lane, 'nothing')
  }

  #goOn(lane: Lane): void {
    this.#stopWaiting(lane)
    this.#flush([lane])
  }
}

/** A socket of its own, connected to a destination to learn when there is room in its queue. Nothing is ever sent through it. */
class Gauge {
  readonly #fd: number
  readonly #watcher: Watcher

  /** Undefined if there is no descriptor for it, or no socket at the address. */
  static make(at: Destination, onRoom: () => void): Gauge | undefined {
    const fd = native.socket(DATAGRAM)
    if (fd < 0) return undefined
    try {
      if (at.use(bytes => native.connect(fd, bytes)) >= 0) return new Gauge(fd, onRoom)
    } catch {
      // the sending itself will tell
    }
    native.close(fd)
    return undefined
  }

  private constructor(fd: number, onRoom: () => void) {
    this.#watcher = new Watcher(fd, onRoom)
    this.#fd = fd
  }

  await(on: boolean): void {
    this.#watcher.want(false, on)
  }

  keepAlive(on: boolean): void {
    if (on) this.#watcher.ref()
    else this.#watcher.unref()
  }

  close(): void {
    this.#watcher.end()
    native.close(this.#fd)
  }
}

function closeAll(fds: readonly number[], foreign: boolean): void {
  if (foreign) discard(fds)
  else for (const fd of fds) native.close(fd)
}
