/**
 * Datagrams that can't leave yet. Each destination has its own queue, so a destination that doesn't read delays no other, and its datagrams
 * leave in order. A queue waits for:
 *
 *     EAGAIN, the destination's queue is full      a gauge: a second socket connected to it, writable when there is room
 *     EAGAIN, this socket's send buffer is full    this socket being writable
 *     ENOBUFS, ENOMEM, ETOOMANYREFS                some milliseconds: no event reports the end of that
 *
 * The kernel doesn't say which EAGAIN it was, and poll(2) of a socket that is not connected knows nothing of its destinations' queues
 * (unix(7), unix_dgram_poll in net/unix/af_unix.c). So a queue tries one after the other; whichever is not the reason is over at once.
 */

import { whenAborted } from '../base/abort-signals.ts'
import { type Deferred, deferred, quiet, RESOLVED } from '../base/deferred.ts'
import { EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS } from '../base/errno.ts'
import { abortError, PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { keepAlive } from '../base/timers.ts'
import { type Descriptor, isForeign, moveAllOut, moveOutShared } from '../descriptor/descriptor.ts'
import { handBack } from '../descriptor/outgoing.ts'
import { discard, Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { DATAGRAM } from '../os/socket-name.ts'
import type { Destination } from './address.ts'
import type { QueueLimits } from './options.ts'

/** The socket through which the queues send. */
export interface Port {
  /** Sends now. Bytes sent, -errno if that may be tried again (`isBackPressure`), or why it can't be sent. */
  transmit(to: Destination | undefined, bytes: Uint8Array, fds: Int32Array, count: number): number | Error
  /** The address to which a gauge for that destination connects; undefined if this socket's own readiness reports room there. */
  gaugeFor(to: Destination | undefined): Destination | undefined
  /** From now on, or no more: calls `writable()` of the queues when the socket is writable. Undefined if it can't. */
  readonly awaitWritable: ((on: boolean) => void) | undefined
}

/** What a datagram in the queue counts besides its bytes. */
const OVERHEAD = 256
/** Gauges of all queues of one socket. Queues beyond them try again after a while. */
const MAX_GAUGES = 64
/** In ms. */
const RETRY = [1, 2, 5, 10, 20, 50]

const fds = new Int32Array(MAX_RIGHTS)

export function isBackPressure(errno: number): boolean {
  return errno === EAGAIN || errno === ENOBUFS || errno === ENOMEM || errno === ETOOMANYREFS
}

interface QueuedDatagram {
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

interface DestinationQueue {
  readonly to: Destination | undefined
  readonly datagrams: QueuedDatagram[]
  /** As `maxQueued` counts. */
  size: number
  waitsFor: 'nothing' | 'gauge' | 'own' | 'timer'
  /** How often waiting was in vain since something has left. */
  fruitless: number
  gauge: Gauge | undefined
  timer: NodeJS.Timeout | undefined
  /** Why the last try failed: -errno. */
  errno: number
}

export class DestinationQueues {
  readonly #port: Port
  readonly #limits: QueueLimits
  readonly #queues = new Map<string, DestinationQueue>()
  #size = 0
  #descriptors = 0
  #gauges = 0
  /** Queues that do. */
  #waitForOwn = 0
  /** What the port was asked last. */
  #awaitsWritable = false
  /** Most often a queue waits again at the end, so the port is asked only then: each change is system calls. */
  #flushing = false
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
    for (const { datagrams } of this.#queues.values()) count += datagrams.length
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
    let queue = this.#queues.get(key)
    // The queue that waits for this socket's buffer gets it first
    if (queue === undefined && this.#waitForOwn === 0) {
      for (let index = 0; index < descriptors.length; index++) fds[index] = descriptors[index]!.borrow()
      const result = this.#port.transmit(to, bytes, fds, descriptors.length)
      if (result instanceof Error) return quiet(Promise.reject(result))
      if (result >= 0) {
        if (descriptors.length > 0) {
          const foreign = descriptors.some(isForeign)
          // They have been sent, so nothing may fail any more: an owner of a number leaves, and the last one closes it
          closeAll(
            descriptors.map(descriptor => moveOutShared(descriptor, BY)),
            foreign
          )
        }
        return RESOLVED
      }
      this.#checkRoom(undefined, bytes.length, descriptors.length)
      const moved = moveAllOut(descriptors, BY)
      queue = this.#addQueue(key, to)
      this.#push(queue, bytes, descriptors, moved, signal)
      this.#wait(queue, result)
    } else {
      this.#checkRoom(queue, bytes.length, descriptors.length)
      const isNew = queue === undefined
      const moved = moveAllOut(descriptors, BY)
      queue ??= this.#addQueue(key, to)
      this.#push(queue, bytes, descriptors, moved, signal)
      if (isNew) this.#waitFor(queue, 'own')
    }
    return queue.datagrams.at(-1)!.sent.promise
  }

  /** The port says that the socket is writable. */
  writable(): void {
    const waiting = [...this.#queues.values()].filter(({ waitsFor }) => waitsFor === 'own')
    this.#flushing = true
    for (const queue of waiting) this.#waitFor(queue, 'nothing')
    this.#flush(waiting)
    this.#flushing = false
    this.#askPort()
  }

  /** Why the kernel refuses to send what is queued, if that is not a full socket: -errno, or 0. */
  get heldBack(): number {
    for (const { errno } of this.#queues.values()) if (errno !== EAGAIN) return errno
    return 0
  }

  /** Resolves when nothing is queued. */
  whenEmpty(): Promise<void> {
    if (this.#queues.size === 0) return RESOLVED
    this.#empty ??= deferred()
    return this.#empty.promise
  }

  /** Drops all queued datagrams. */
  end(error: Error): void {
    for (const queue of [...this.#queues.values()])
      while (queue.datagrams.length > 0) this.#fail(queue, queue.datagrams[0]!, error)
  }

  /** Sets whether queued datagrams keep the process running. */
  keepAlive(on: boolean): void {
    this.#referenced = on
    for (const { gauge, timer } of this.#queues.values()) {
      keepAlive(timer, on)
      gauge?.keepAlive(on)
    }
  }

  // --- the queue

  #checkRoom(queue: DestinationQueue | undefined, bytes: number, descriptors: number): void {
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
    if (queue !== undefined && queue.size + size > maxQueued) throw full(queue.size, maxQueued, 'maxQueued')
    if (this.#size > 0 && this.#size + size > maxQueuedTotal) throw full(this.#size, maxQueuedTotal, 'maxQueuedTotal')
    if (descriptors > 0 && this.#descriptors + descriptors > maxQueuedDescriptors)
      throw full(this.#descriptors, maxQueuedDescriptors, 'maxQueuedDescriptors')
  }

  #addQueue(key: string, to: Destination | undefined): DestinationQueue {
    const queue: DestinationQueue = {
      to,
      datagrams: [],
      size: 0,
      waitsFor: 'nothing',
      fruitless: 0,
      gauge: undefined,
      timer: undefined,
      errno: EAGAIN
    }
    this.#queues.set(key, queue)
    return queue
  }

  #push(
    queue: DestinationQueue,
    bytes: Uint8Array,
    descriptors: readonly Descriptor[],
    fds: readonly number[],
    signal: AbortSignal | undefined
  ): void {
    const sent = deferred()
    const datagram: QueuedDatagram = {
      bytes: Uint8Array.prototype.slice.call(bytes), // the caller may change its own
      descriptors: [...descriptors], // the caller may change its own meanwhile
      foreign: descriptors.some(isForeign),
      fds,
      sent,
      release: whenAborted(signal, () => this.#fail(queue, datagram, abortError(signal!)))
    }
    queue.datagrams.push(datagram)
    this.#count(queue, datagram, 1)
  }

  /** It leaves the queue. */
  #remove(queue: DestinationQueue, datagram: QueuedDatagram): void {
    if (queue.datagrams[0] === datagram) queue.datagrams.shift()
    else queue.datagrams.splice(queue.datagrams.indexOf(datagram), 1)
    datagram.release()
    this.#count(queue, datagram, -1)
    if (queue.datagrams.length > 0) return
    this.#stopWaiting(queue)
    this.#closeGauge(queue)
    this.#queues.delete(queue.to?.key ?? '')
    if (this.#queues.size > 0) return
    this.#empty?.resolve()
    this.#empty = undefined
  }

  #count(queue: DestinationQueue, { bytes, fds }: QueuedDatagram, sign: 1 | -1): void {
    const size = sign * (bytes.length + OVERHEAD)
    queue.size += size
    this.#size += size
    this.#descriptors += sign * fds.length
  }

  #fail(queue: DestinationQueue, datagram: QueuedDatagram, error: Error): void {
    this.#remove(queue, datagram)
    handBack(datagram.descriptors, datagram.fds)
    datagram.sent.reject(error)
  }

  // --- sending

  /** One of each queue in turn, while they have any and there is room for it. */
  #flush(queues: DestinationQueue[]): void {
    const first = queues.length === 0 ? 0 : this.#turn++ % queues.length
    if (queues.length === 1) {
      while (this.#sendOne(queues[0]!));
      return
    }
    let active = [...queues.slice(first), ...queues.slice(0, first)]
    while (active.length > 0) active = active.filter(queue => this.#sendOne(queue))
  }

  /** Whether the queue can go on. */
  #sendOne(queue: DestinationQueue): boolean {
    const [datagram] = queue.datagrams
    if (datagram === undefined || queue.waitsFor !== 'nothing') return false
    fds.set(datagram.fds)
    const result = this.#port.transmit(queue.to, datagram.bytes, fds, datagram.fds.length)
    if (result instanceof Error) this.#fail(queue, datagram, result)
    else if (result < 0) {
      this.#wait(queue, result)
      return false
    } else {
      queue.fruitless = 0
      this.#remove(queue, datagram)
      closeAll(datagram.fds, datagram.foreign)
      datagram.sent.resolve()
    }
    return queue.datagrams.length > 0
  }

  // --- waiting

  #wait(queue: DestinationQueue, errno: number): void {
    const round = queue.fruitless++
    queue.errno = errno
    const { gaugeFor, awaitWritable } = this.#port
    const at = gaugeFor.call(this.#port, queue.to)
    const steps = [at && 'gauge', awaitWritable && 'own', 'timer'].filter(step => step !== undefined)
    const step = errno === EAGAIN ? steps[round % steps.length] : 'timer'
    if (step !== 'gauge') this.#closeGauge(queue)
    if (step === 'gauge') this.#awaitGauge(queue, at!)
    else if (step === 'own') this.#waitFor(queue, 'own')
    else this.#awaitTimer(queue, RETRY[Math.min(Math.floor(round / steps.length), RETRY.length - 1)]!)
  }

  #waitFor(queue: DestinationQueue, what: DestinationQueue['waitsFor']): void {
    if (queue.waitsFor === 'own') this.#waitForOwn--
    if (what === 'own') this.#waitForOwn++
    queue.waitsFor = what
    if (!this.#flushing) this.#askPort()
  }

  #askPort(): void {
    const on = this.#waitForOwn > 0
    if (on === this.#awaitsWritable) return
    this.#awaitsWritable = on
    this.#port.awaitWritable?.(on)
  }

  #awaitTimer(queue: DestinationQueue, delay: number): void {
    this.#waitFor(queue, 'timer')
    queue.timer = setTimeout(() => this.#goOn(queue), delay)
    if (!this.#referenced) keepAlive(queue.timer, false)
  }

  #awaitGauge(queue: DestinationQueue, at: Destination): void {
    if (queue.gauge === undefined) {
      if (this.#gauges < MAX_GAUGES) queue.gauge = Gauge.make(at, () => this.#goOn(queue))
      if (queue.gauge === undefined) {
        this.#awaitTimer(queue, RETRY[0]!)
        return
      }
      this.#gauges++
      queue.gauge.keepAlive(this.#referenced)
    }
    this.#waitFor(queue, 'gauge')
    queue.gauge.await(true)
  }

  #closeGauge(queue: DestinationQueue): void {
    if (queue.gauge === undefined) return
    queue.gauge.close()
    queue.gauge = undefined
    this.#gauges--
  }

  #stopWaiting(queue: DestinationQueue): void {
    clearTimeout(queue.timer)
    queue.timer = undefined
    queue.gauge?.await(false)
    this.#waitFor(queue, 'nothing')
  }

  #goOn(queue: DestinationQueue): void {
    clearTimeout(queue.timer)
    queue.timer = undefined
    this.#waitFor(queue, 'nothing')
    this.#flush([queue])
    if (queue.waitsFor !== 'gauge') queue.gauge?.await(false) // most often it waits for it again
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
      // the send itself will report the error
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
