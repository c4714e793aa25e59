/** `PacketSocket`: packets with descriptors over AF_UNIX `SOCK_SEQPACKET`, whose boundaries the kernel keeps. */

import { EventEmitter } from 'node:events'
import { setImmediate } from 'node:timers'
import { AsyncContext } from '../base/async-context.ts'
import { type Deferred, deferred } from '../base/deferred.ts'
import { EAGAIN, ECONNRESET, EINTR, EMSGSIZE } from '../base/errno.ts'
import { asError, type Failure, PassfdError, systemError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { checkKind } from '../descriptor/admission.ts'
import { type Descriptor, descriptionOf, moveOut, received, restoreNumber } from '../descriptor/descriptor.ts'
import { type Cargo, cargoOf, checkCount, handBack } from '../descriptor/outgoing.ts'
import { askOf, type Peer, peerOf } from '../descriptor/peer.ts'
import { discard } from '../os/loop.ts'
import { CREDENTIALS, CUT, MESSAGE_FIRST, native, RESULT_DESCRIPTORS, RESULT_FLAGS, TRUNCATED } from '../os/native.ts'
import { isBackPressure, isRefusal, RawSocket, RECEIVED } from '../os/raw-socket.ts'
import { PACKET_OPTIONS, type PacketOptions, packetLimits } from './options.ts'
import { closeCopies } from './stream-outbox.ts'

export interface Packet {
  readonly bytes: Buffer
  /** The receiver owns these, and closes or converts them. */
  readonly descriptors: Descriptor[]
}

export interface PacketSocketEvents {
  message: [Packet]
  /** The peer has ended its side. */
  end: []
  close: [error?: Failure]
}

interface Outgoing {
  bytes: Buffer
  readonly cargo: Cargo
  readonly descriptors: readonly Descriptor[]
  readonly sent: Deferred
}

/** Packets in one wake-up; the rest waits for the next, so that others get their turn. */
const READS = 32
const ATTACHED = new Int32Array(MAX_RIGHTS)
/** The shim wants room for the sender's address, which is not used. */
const NAME = Buffer.alloc(108)

let scratch = Buffer.alloc(0)

/** @internal */
export let createPacketSocket: (fd: number, peer: Peer, options: PacketOptions, description?: object) => PacketSocket

/**
 * Sends and receives packets on a connected socket. It reads while it has a `'message'` listener or a pending `for await`. Otherwise packets
 * wait in the kernel. There is no `'error'` event: `closed` and `'close'` report how it ended.
 */
export class PacketSocket extends EventEmitter<PacketSocketEvents> implements AsyncIterable<Packet>, AsyncDisposable {
  /** The process at the other end (unix(7), `SO_PEERCRED`). */
  readonly peer: Peer
  /** Resolves when the socket has ended: to the error that ended it, or to undefined. Never rejects. */
  readonly closed: Promise<Failure | undefined>
  readonly #socket: RawSocket
  readonly #context = new AsyncContext('PASSFD_SOCKET')
  readonly #limits: Required<PacketOptions>
  readonly #description: object | undefined
  readonly #outgoing: Outgoing[] = []
  #waitingDescriptors = 0
  readonly #readers: { resolve(result: IteratorResult<Packet>): void }[] = []
  #reset: Error | undefined
  #readEnded = false
  #ending: Deferred | undefined
  #writeEnded = false
  #writeFailure: Error | undefined
  #resolveClosed!: (error: Failure | undefined) => void

  private constructor(fd: number, peer: Peer, options: PacketOptions, description: object | undefined) {
    super()
    markUncloneable(this)
    this.peer = peer
    this.#limits = packetLimits(options)
    this.#description = description
    this.closed = new Promise(resolve => {
      this.#resolveClosed = resolve
    })
    // A packet brings credentials even if it is empty; the end of the stream, which looks the same, does not
    native.passCredentials(fd, true)
    if (scratch.length < this.#limits.maxPacket) scratch = Buffer.allocUnsafeSlow(this.#limits.maxPacket)
    this.#socket = new RawSocket(fd, { onReadable: () => this.#onReadable(), onWritable: () => this.#flush() })
    askOf(peer, this.#socket)
    const onListener = (event: string | symbol): void => {
      if (event === 'message') queueMicrotask(() => this.#update())
    }
    super.on('newListener' as never, onListener as never)
    super.on('removeListener' as never, onListener as never)
  }

  /**
   * Makes a PacketSocket on a connected socket: of a socketpair, inherited or received. It takes the Descriptor (kind `unix-seqpacket`) over.
   * @throws ERR_PASSFD_DESCRIPTOR_KIND, ERR_PASSFD_INVALID_ARGUMENT; then the caller still owns the Descriptor.
   */
  static from(descriptor: Descriptor, given: PacketOptions = {}): PacketSocket {
    const options = readOptions(given, PACKET_OPTIONS)
    packetLimits(options)
    const by = 'PacketSocket.from()'
    checkKind(descriptor, 'unix-seqpacket', by)
    const peer = peerOf(descriptor.borrow())
    const fd = moveOut(descriptor, by)
    try {
      return createPacketSocket(fd, peer, options, descriptionOf(descriptor))
    } catch (error) {
      restoreNumber(descriptor, fd, undefined)
      throw error
    }
  }

  /**
   * Sends one packet, which may be empty, and moves its descriptors (at most 253). Resolves when the packet has been sent; the program need not
   * await it.
   *
   * If only this packet can't be sent, the promise rejects with the system's error, the caller owns the open descriptors again, and the other
   * packets go on. EMSGSIZE: it is too large. EBADF: a descriptor was closed by its number. EINVAL: the kernel never passes such a descriptor.
   * If the socket ends first, passfd closes the descriptors, and the promise rejects with the error that ended the socket (EPIPE, …) or
   * ERR_PASSFD_CLOSED.
   * @throws ERR_PASSFD_TOO_MANY_RIGHTS, ERR_PASSFD_QUEUE_FULL, ERR_PASSFD_STREAM_ENDED, and the error of a Descriptor that can't be sent. Then
   * nothing has moved.
   */
  send(bytes: Uint8Array | string, descriptors: readonly Descriptor[] = []): Promise<void> {
    const chunk = checkCount(bytes, descriptors.length, 0)
    if (this.#ending !== undefined && !this.#readEnded) throw new PassfdError('STREAM_ENDED')
    this.#checkRoom(descriptors.length)
    const cargo = cargoOf(descriptors, "a socket's send()", this.#description)
    const sent = deferred()
    const failure = this.#writeFailure ?? (this.#ending !== undefined || this.#socket.ended ? closedError() : undefined)
    if (failure !== undefined) {
      closeCopies(cargo.fds, cargo.foreign)
      sent.reject(failure)
      return sent.promise
    }
    const outgoing: Outgoing = { bytes: chunk, cargo, descriptors: [...descriptors], sent }
    this.#outgoing.push(outgoing)
    this.#waitingDescriptors += cargo.fds.length
    if (this.#outgoing.length === 1) this.#flush()
    // It waits, and the caller may change its own
    if (typeof bytes !== 'string' && this.#outgoing.at(-1) === outgoing) outgoing.bytes = Buffer.from(chunk)
    return sent.promise
  }

  /** Ends this side after all queued packets have been sent, and then resolves. The peer can read all of them. */
  end(): Promise<void> {
    if (this.#ending === undefined) {
      this.#ending = deferred()
      this.#endWriting()
    }
    return this.#ending.promise
  }

  /** Closes the socket at once, with the descriptors of packets that were not sent. */
  destroy(reason?: Error): void {
    if (this.#socket.ended) return
    const error = reason === undefined || reason === null ? undefined : asError(reason)
    this.#readEnded = true
    this.#socket.end()
    for (const { cargo, sent } of this.#outgoing.splice(0)) {
      closeCopies(cargo.fds, cargo.foreign)
      sent.reject(error ?? closedError())
    }
    this.#ending ??= deferred()
    this.#ending.resolve()
    for (const { resolve } of this.#readers.splice(0)) resolve({ done: true, value: undefined })
    this.#resolveClosed(error)
    process.nextTick(() => {
      this.#context.emit(this, 'close', ...(error === undefined ? [] : [error]))
      this.#context.end()
    })
  }

  /** Keeps the process running while the socket reads or writes (the default). */
  ref(): this {
    this.#socket.ref()
    return this
  }

  unref(): this {
    this.#socket.unref()
    return this
  }

  /** Iterates over the packets, until the peer or the socket ends (`closed` has the reason). `break` stops reading and closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Packet> {
    const waiting = new Set<{ resolve(result: IteratorResult<Packet>): void }>()
    const iterator: AsyncIterableIterator<Packet> = {
      next: () =>
        new Promise(resolve => {
          if (this.#readEnded) {
            resolve({ done: true, value: undefined })
            return
          }
          const reader = { resolve }
          waiting.add(reader)
          this.#readers.push(reader)
          this.#update()
        }),
      return: async () => {
        for (const reader of waiting) {
          const index = this.#readers.indexOf(reader)
          if (index >= 0) this.#readers.splice(index, 1)
          reader.resolve({ done: true, value: undefined })
        }
        this.#update()
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator
    }
    return iterator
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.destroy()
    await this.closed
  }

  // --- writing

  #checkRoom(count: number): void {
    const { maxQueued, maxDescriptors } = this.#limits
    if (this.#outgoing.length >= maxQueued) throw queueFull('packets', this.#outgoing.length, maxQueued, 'maxQueued')
    const queued = this.#waitingDescriptors
    if (queued + count > maxDescriptors) throw queueFull('descriptors', queued, maxDescriptors, 'maxDescriptors')
  }

  #flush(): void {
    while (this.#outgoing.length > 0 && !this.#socket.ended) {
      const { bytes, cargo, descriptors, sent } = this.#outgoing[0]!
      for (const [index, fd] of cargo.fds.entries()) ATTACHED[index] = fd
      const { fd } = this.#socket
      const result = native.sendMessage(fd, bytes, 0, bytes.length, ATTACHED, 0, cargo.fds.length, null)
      if (isBackPressure(result)) {
        this.#socket.writeLater(result)
        return
      }
      this.#outgoing.shift()
      this.#waitingDescriptors -= cargo.fds.length
      const isItsOwn = result === EMSGSIZE || (cargo.fds.length > 0 && isRefusal(result))
      if (result < 0 && isItsOwn) handBack(descriptors, cargo.fds)
      else closeCopies(cargo.fds, cargo.foreign)
      if (result >= 0) sent.resolve()
      else {
        const failure = systemError(result, 'sendmsg')
        sent.reject(failure)
        if (!isItsOwn) this.#failWriting(failure)
      }
    }
    if (this.#ending !== undefined) this.#endWriting()
  }

  #endWriting(): void {
    if (this.#outgoing.length > 0 || this.#writeEnded || this.#socket.ended) return
    this.#writeEnded = true
    const result = native.shutdown(this.#socket.fd, 1)
    this.#ending!.resolve()
    if (this.#readEnded) this.destroy(this.#reset)
    else if (result < 0) this.#failWriting(systemError(result, 'shutdown')) // else the peer would never see the end, and wait
  }

  /** The peer is gone. What it sent before is read first, if the program reads. */
  #failWriting(failure: Error): void {
    this.#writeFailure = failure
    for (const { cargo, sent } of this.#outgoing.splice(0)) {
      closeCopies(cargo.fds, cargo.foreign)
      sent.reject(failure)
    }
    this.#waitingDescriptors = 0
    if (this.#readEnded || !this.#socket.reading) this.destroy(failure)
    else
      setImmediate(() => {
        if (!this.#socket.ended && this.#socket.reading) this.#onReadable()
      })
  }

  // --- reading

  #update(): void {
    if (this.#socket.ended) return
    this.#socket.read(!this.#readEnded && (this.listenerCount('message') > 0 || this.#readers.length > 0))
  }

  #onReadable(): void {
    for (let i = 0; i < READS && this.#socket.reading; i++) {
      const { fd } = this.#socket
      const result = native.receiveMessage(fd, scratch, 0, this.#limits.maxPacket, RECEIVED, NAME, false)
      if (result === EINTR) continue
      if (result === EAGAIN) {
        if (this.#writeFailure !== undefined) this.destroy(this.#writeFailure)
        return
      }
      // The kernel reports the reset before it delivers the packets that were sent before the reset
      if (result === ECONNRESET && this.#reset === undefined) {
        this.#reset = systemError(result, 'recvmsg')
        continue
      }
      if (result < 0) {
        this.destroy(systemError(result, 'recvmsg'))
        return
      }
      const flags = RECEIVED[RESULT_FLAGS]!
      const fds = Array.from(RECEIVED.subarray(MESSAGE_FIRST, MESSAGE_FIRST + RECEIVED[RESULT_DESCRIPTORS]!))
      if (result === 0 && fds.length === 0 && (flags & CREDENTIALS) === 0) {
        this.#endReading()
        return
      }
      if ((flags & (TRUNCATED | CUT)) !== 0) {
        discard(fds)
        const { maxPacket } = this.#limits
        this.destroy(
          flags & CUT
            ? new PassfdError('PACKET_TOO_LARGE', { limit: maxPacket })
            : new PassfdError('DESCRIPTORS_TRUNCATED')
        )
        return
      }
      this.#deliver({ bytes: Buffer.from(scratch.subarray(0, result)), descriptors: fds.map(received) })
    }
  }

  #deliver(packet: Packet): void {
    const reader = this.#readers.shift()
    if (reader === undefined) this.#tell('message', packet)
    else reader.resolve({ done: false, value: packet })
    this.#update()
  }

  #endReading(): void {
    this.#readEnded = true
    this.#update()
    for (const { resolve } of this.#readers.splice(0)) resolve({ done: true, value: undefined })
    this.#tell('end')
    const failure = this.#writeFailure ?? this.#reset
    if (failure !== undefined) this.destroy(failure)
    else if (this.#writeEnded) this.destroy()
    else if (!this.#limits.allowHalfOpen) this.end()
  }

  /** Throws a listener's exception later, so that it does not stop the next packet. */
  #tell(event: keyof PacketSocketEvents, ...args: unknown[]): void {
    this.#context.tell(this, event, ...args)
  }

  static {
    createPacketSocket = (fd, peer, options, description) => new PacketSocket(fd, peer, options, description)
  }
}
mark(PacketSocket, 'PacketSocket')

function closedError(): PassfdError {
  return new PassfdError('CLOSED', { what: 'socket' })
}

function queueFull(things: string, queued: number, limit: number, option: string): PassfdError {
  const what = `The peer does not keep up, and the queue is full of ${things}`
  return new PassfdError('QUEUE_FULL', { what, queued, limit, option, remedy: 'Await send() before sending more' })
}
