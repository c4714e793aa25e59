/** A connected socket whose owner calls each read and write: its place on the loop, and its end. */

import { constants } from 'node:fs'
import { EAGAIN, ECONNRESET, ENOBUFS, ENOMEM, ENOTCONN, EPIPE, ETOOMANYREFS } from '../base/errno.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { keepAlive } from '../base/timers.ts'
import { discard, Watcher } from './loop.ts'
import { FAILED, MESSAGE_FIRST, native, READABLE, WRITABLE } from './native.ts'

/** The result of such a read. MESSAGE_… in native.ts defines its places and its length. */
export const RECEIVED = new Int32Array(MESSAGE_FIRST + 2 * MAX_RIGHTS)

/** Tries again after this many ms to send descriptors, because no event reports that descriptors in flight have arrived. */
const RETRY_AFTER = 5

export interface RawSocketOwner {
  onReadable(): void
  onWritable(): void
}

/** It owns `fd`, which the shim holds. It reads and writes only when it is asked to. */
export class RawSocket {
  readonly fd: number
  readonly #owner: RawSocketOwner
  readonly #watcher: Watcher
  #reading = false
  #writing = false
  #referenced = true
  #retry: NodeJS.Timeout | undefined

  constructor(fd: number, owner: RawSocketOwner) {
    this.fd = fd
    this.#owner = owner
    const blocks = (native.statusFlags(fd) & constants.O_NONBLOCK) === 0
    try {
      this.#watcher = new Watcher(fd, events => this.#tell(events))
    } finally {
      // Watching sets the flag, even if it fails; it would affect every process that shares the socket, and passfd's calls don't need it
      if (blocks) native.nonblocking(fd, false)
    }
    this.#watcher.want(false, false)
  }

  get reading(): boolean {
    return this.#reading
  }

  get ended(): boolean {
    return !this.#watcher.active
  }

  /** Asks for `onReadable`, again and again, or ends that. */
  read(on: boolean): void {
    if (on === this.#reading) return
    this.#reading = on
    this.#watcher.want(this.#reading, this.#writing)
  }

  /** Asks for `onWritable` once, by the error of a write: when there is room, or when descriptors in flight may have arrived. */
  writeLater(errno: number): void {
    if (errno === EAGAIN) this.#write(true)
    else {
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined
        this.#owner.onWritable()
      }, RETRY_AFTER)
      if (!this.#referenced) keepAlive(this.#retry, false)
    }
  }

  ref(): void {
    this.#referenced = true
    this.#watcher.ref()
    keepAlive(this.#retry, true)
  }

  unref(): void {
    this.#referenced = false
    this.#watcher.unref()
    keepAlive(this.#retry, false)
  }

  /** Leaves the loop and closes the socket, off the loop, because unreceived descriptors may be in its queue. */
  end(): void {
    clearTimeout(this.#retry)
    if (this.ended) return
    // An owner that reads in a loop stops, because the number may be another file's soon
    this.#reading = false
    this.#writing = false
    this.#watcher.end()
    discard([this.fd])
  }

  #write(on: boolean): void {
    if (on === this.#writing) return
    this.#writing = on
    this.#watcher.want(this.#reading, this.#writing)
  }

  #tell(events: number): void {
    const failed = (events & FAILED) !== 0
    const writable = this.#writing && (failed || (events & WRITABLE) !== 0)
    const readable = failed || (events & READABLE) !== 0
    try {
      if (writable) {
        this.#write(false)
        this.#owner.onWritable()
      }
      if (readable && this.#reading) this.#owner.onReadable()
    } finally {
      if (failed) this.#watcher.want(this.#reading, this.#writing) // otherwise the watcher reports nothing more
    }
  }
}

/**
 * A write with descriptors has failed because of them: one is closed (EBADF), or of a kind that the kernel never passes (EINVAL: io_uring).
 * Nothing has left, and the next write may succeed.
 */
export function isRefusal(errno: number): boolean {
  return !isBackPressure(errno) && errno !== EPIPE && errno !== ECONNRESET && errno !== ENOTCONN
}

/** Whether a later try may succeed: no room in the socket, in memory, or for more descriptors in flight (unix(7)). */
export function isBackPressure(errno: number): boolean {
  return errno === EAGAIN || errno === ETOOMANYREFS || errno === ENOBUFS || errno === ENOMEM
}
