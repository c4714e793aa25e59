/** `createSocket`: what the package unix-dgram has under this name, in worker threads too, and with descriptors. */

import * as dgram from 'node:dgram'
import { EventEmitter } from 'node:events'
import { AsyncContext } from '../base/async-context.ts'
import { isUint8Array } from '../base/brand.ts'
import { EAGAIN, EBADF, ENOBUFS } from '../base/errno.ts'
import { PassfdError } from '../base/errors.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { discard, Watcher } from '../os/loop.ts'
import { FAILED, native, READABLE, WRITABLE } from '../os/native.ts'
import type { SocketName } from '../os/socket-name.ts'
import { DATAGRAM, withNameBytes } from '../os/socket-name.ts'
import { endLoans, lend } from './message.ts'
import { receiveDatagram } from './receive.ts'

/** The sender of a datagram. unix-dgram has only the first three fields. */
export interface ReceivedFrom {
  readonly size: number
  readonly address: object
  /** The path of the socket that sent it; null if it has no name, or an abstract one. */
  readonly path: string | null
  /** The name of that socket, also an abstract one. */
  readonly from: SocketName | undefined
  /** The process that sent it, if this socket was bound before that. */
  readonly pid: number | undefined
  readonly uid: number | undefined
  readonly gid: number | undefined
  /** The received descriptors, lent until the listeners have returned: `claim()` keeps one. */
  readonly descriptors: readonly Descriptor[]
  /** Set if the kernel dropped descriptors of the datagram: ERR_PASSFD_DESCRIPTORS_TRUNCATED. */
  readonly error: PassfdError | undefined
}

/** An error in unix-dgram's form if it is the system's: `code` and `errno` are the negative number. The code of passfd's own errors is a string. */
export interface UnixSocketError extends Error {
  code?: string | number
  errno?: number
  syscall?: string
}

type Callback = (error?: UnixSocketError) => void

export interface UnixSocketEvents {
  message: [data: Buffer, from: ReceivedFrom]
  listening: []
  connect: []
  congestion: [data: Uint8Array]
  writable: []
  error: [UnixSocketError]
}

const NO_FDS = new Int32Array(0)
const CONGESTION = 1

/** Makes a Unix datagram socket or, for `udp4` and `udp6`, a socket of node:dgram. */
export function createSocket(type: 'unix_dgram', listener?: (data: Buffer, from: ReceivedFrom) => void): UnixSocket
export function createSocket(type: 'udp4' | 'udp6', listener?: (...given: any[]) => void): dgram.Socket
export function createSocket(type: string, listener?: (...given: any[]) => void): UnixSocket | dgram.Socket {
  if (type === 'udp4' || type === 'udp6') return dgram.createSocket(type, listener)
  return new UnixSocket(type, listener)
}

/**
 * The class of unix-dgram's `createSocket`, with the same methods, events and errors (`code` and `errno` are the negative number).
 *
 * All calls are synchronous, as there. An `'error'` event without a listener throws. In addition it has datagrams of any length, long paths,
 * worker threads, `ref` and `unref`, and received descriptors. `attach(socket)` sends descriptors.
 */
export class UnixSocket extends EventEmitter<UnixSocketEvents> {
  readonly type: string
  connected = false
  /** The number, which this socket owns; -1 after it was closed. */
  fd: number
  readonly #watcher: Watcher
  readonly #context = new AsyncContext('PASSFD_SOCKET')

  constructor(type: string, listener?: (data: Buffer, from: ReceivedFrom) => void) {
    super()
    if (type !== 'unix_dgram') throw new Error(`Unsupported socket type: ${type}`)
    this.type = type
    const fd = native.socket(DATAGRAM)
    if (fd < 0) throw numbered(fd, 'socket')
    this.fd = fd
    try {
      this.#watcher = new Watcher(fd, events => this.#ready(events))
    } catch (error) {
      native.close(fd)
      throw error
    }
    if (typeof listener === 'function') this.on('message', listener)
  }

  /** Binds the path, and emits `'listening'` or `'error'`. The umask sets the mode of the file. The file stays after the socket was closed. */
  bind(path: string): void {
    const result = this.#call(() => withNameBytes({ path: String(path) }, bytes => native.bind(this.fd, bytes, -1)))
    if (result < 0) this.#fail(result, 'bind')
    else {
      // Not before: it would give the socket a name of the kernel's choice, and bind fails on one that has a name (unix(7))
      native.passCredentials(this.fd, true)
      this.#context.emit(this, 'listening')
    }
  }

  /** Connects to the path, and emits `'connect'` or `'error'`. */
  connect(path: string): void {
    const result = this.#call(() => withNameBytes({ path: String(path) }, bytes => native.connect(this.fd, bytes)))
    if (result < 0) this.#fail(result, 'connect')
    else {
      this.connected = true
      this.#context.emit(this, 'connect')
    }
  }

  /**
   * Sends to the connected peer. If the peer's queue is full, it emits `'congestion'`; with a callback it calls that with an error, whose code
   * is 1. `'writable'` follows when there is room. Other failures are an `'error'` event, or go to the callback.
   */
  send(data: Uint8Array, callback?: Callback): void
  /** Sends the bytes [offset, offset + length) to `path`. */
  send(data: Uint8Array, offset: number, length: number, path: string, callback?: Callback): void
  send(data: Uint8Array, offset?: number | Callback, length?: number, path?: string, callback?: Callback): void {
    if (!isUint8Array(data)) throw new TypeError('The data to send must be a Buffer or Uint8Array')
    const result = this.connected
      ? this.#sendConnected(data)
      : this.#sendTo(data, Number(offset), Number(length), String(path))
    const done = this.connected ? offset : callback
    if (typeof done === 'function') {
      if (result < 0) done(numbered(result, 'send'))
      else if (result === CONGESTION) done(Object.assign(new Error('congestion'), { code: CONGESTION }))
      else done()
    } else if (result < 0) this.#fail(result, 'send')
    else if (result === CONGESTION) this.#context.emit(this, 'congestion', data)
  }

  /** Works as `send`. */
  sendto(data: Uint8Array, offset: number, length: number, path: string, callback?: Callback): void {
    this.send(data, offset, length, path, callback)
  }

  close(): void {
    if (this.fd < 0) throw numbered(EBADF, 'close')
    this.#watcher.end()
    native.close(this.fd)
    this.fd = -1
    this.#context.end()
  }

  /** Keeps the process running while the socket is open (the default). */
  ref(): this {
    this.#watcher.ref()
    return this
  }

  unref(): this {
    this.#watcher.unref()
    return this
  }

  address(): never {
    throw notImplemented()
  }

  setTTL(_ttl: number): never {
    throw notImplemented()
  }

  setBroadcast(_flag: boolean): never {
    throw notImplemented()
  }

  setMulticastTTL(_ttl: number): never {
    throw notImplemented()
  }

  setMulticastLoopback(_flag: boolean): never {
    throw notImplemented()
  }

  addMembership(_group: string, _interface?: string): never {
    throw notImplemented()
  }

  dropMembership(_group: string, _interface?: string): never {
    throw notImplemented()
  }

  #sendConnected(data: Uint8Array): number {
    const result = this.#call(() => native.sendMessage(this.fd, data, 0, data.length, NO_FDS, 0, 0, null))
    if (result !== EAGAIN && result !== ENOBUFS) return Math.min(result, 0)
    this.#watcher.want(true, true)
    return CONGESTION
  }

  #sendTo(data: Uint8Array, offset: number, length: number, path: string): number {
    const end = offset + length
    if (!Number.isInteger(end) || offset < 0 || length < 0 || end > data.length)
      throw new RangeError(`There are no bytes ${offset} to ${end} in a buffer of ${data.length}`)
    const sent = this.#call(() =>
      withNameBytes({ path }, bytes => native.sendMessage(this.fd, data, offset, end, NO_FDS, 0, 0, bytes))
    )
    return Math.min(sent, 0)
  }

  /** -errno, whatever fails. */
  #call(work: () => number): number {
    if (this.fd < 0) return EBADF
    try {
      return work()
    } catch (error) {
      const { errno } = error as NodeJS.ErrnoException
      if (typeof errno === 'number') return errno
      throw error
    }
  }

  #fail(errno: number, syscall: string): void {
    this.#context.emit(this, 'error', numbered(errno, syscall))
  }

  #ready(events: number): void {
    if (events & (READABLE | FAILED)) this.#receive()
    if (this.fd < 0) return
    if (events & (WRITABLE | FAILED)) {
      this.#watcher.want(true, false)
      if (events & WRITABLE) this.#context.emit(this, 'writable')
    }
  }

  #receive(): void {
    const received = receiveDatagram(this.fd, Number.POSITIVE_INFINITY)
    if (typeof received === 'number') return // EAGAIN, or what a lost peer leaves behind
    const { data, from, sender, fds, truncated } = received
    const owner = { discard }
    if (truncated && fds.length > 0) discard(fds.splice(0))
    const descriptors = lend(fds, sender?.pid ?? 0, owner)
    try {
      this.#context.emit(this, 'message', data, {
        size: data.length,
        address: {},
        path: from !== undefined && 'path' in from ? from.path : null,
        from,
        pid: sender?.pid,
        uid: sender?.uid,
        gid: sender?.gid,
        descriptors,
        error: truncated ? new PassfdError('DESCRIPTORS_TRUNCATED') : undefined
      })
    } finally {
      endLoans(descriptors, "the 'message' listeners returned", owner)
    }
  }
}

/** As unix-dgram makes them: the number is the code. */
function numbered(errno: number, syscall: string): Error {
  return Object.assign(new Error(`${syscall} ${errno}`), { errno, code: errno, syscall })
}

function notImplemented(): Error {
  return new Error('not implemented')
}
