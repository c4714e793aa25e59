/** Peeks at the first bytes of connections (MSG_PEEK, recv(2)) to choose their worker. */
import { EAGAIN } from '../../base/errno.ts'
import { checked } from '../../base/errors.ts'
import { Watcher } from '../../os/loop.ts'
import { native } from '../../os/native.ts'

/** The most connections that wait; also at most a quarter of the descriptors that this process may have. */
const MAX_WAITING = 4096
const DESCRIPTORS_EACH = 4
const EVENTS = 64

/** Chooses a connection's place by its first bytes. */
export interface FirstBytesReader<Place> {
  /** Returns undefined if it wants more bytes, which it must not if `ended`. `head` is valid only during the call. */
  decide(head: Buffer, ended: boolean, address: string | undefined): Place | undefined
  /** Gets the connection, and owns it. */
  take(fd: number, place: Place): void
}

interface Waiting {
  readonly address: string | undefined
  readonly until: number
  /** How many bytes the reader has seen. */
  seen: number
  /** It has a place. `decide` may call `close()`, which asks again for the same connection. */
  gone: boolean
}

export class FirstBytes<Place> {
  readonly #buffer: Buffer
  readonly #timeout: number
  readonly #reader: FirstBytesReader<Place>
  /** By descriptor, in the order of their time limits. */
  readonly #waiting = new Map<number, Waiting>()
  readonly #told = new Int32Array(EVENTS)
  readonly #set: number
  readonly #watcher: Watcher
  #timer: NodeJS.Timeout | undefined
  #closed = false

  /** `timeout` in ms. Throws the system's error if there are no descriptors for it. */
  constructor(maxHead: number, timeout: number, reader: FirstBytesReader<Place>) {
    this.#buffer = Buffer.allocUnsafeSlow(maxHead)
    this.#timeout = timeout
    this.#reader = reader
    this.#set = checked(native.edgeSet(), 'epoll_create')
    try {
      this.#watcher = new Watcher(this.#set, () => this.#happened())
    } catch (error) {
      native.close(this.#set)
      throw error
    }
  }

  /** Adds a connection. If too many wait, the oldest one is decided on by the bytes that it has sent so far. */
  add(fd: number, address: string | undefined): void {
    const waiting = { address, until: performance.now() + this.#timeout, seen: 0, gone: false }
    if (this.#look(fd, waiting, this.#closed)) return
    if (this.#waiting.size >= Math.min(MAX_WAITING, native.limit() / DESCRIPTORS_EACH)) this.#lookAtOldest()
    // `decide` may have called close(). The set is edge-triggered, because bytes that don't suffice would keep the loop busy
    if (this.#closed || native.edgeAdd(this.#set, fd) < 0) {
      this.#look(fd, waiting, true)
      return
    }
    this.#waiting.set(fd, waiting)
    this.#timer ??= setTimeout(() => this.#expire(), this.#timeout)
  }

  /** Decides on all waiting connections by the bytes that they have sent so far. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    for (const [fd, waiting] of this.#waiting) this.#look(fd, waiting, true)
    this.#watcher.end()
    native.close(this.#set)
  }

  #happened(): void {
    const count = native.edgeReady(this.#set, this.#told)
    for (let i = 0; i < count; i++) {
      const told = this.#told[i]!
      const fd = told < 0 ? ~told : told // the complement: the client has ended
      const waiting = this.#waiting.get(fd)
      if (waiting !== undefined) this.#look(fd, waiting, told < 0)
    }
  }

  #lookAtOldest(): void {
    for (const [fd, waiting] of this.#waiting) {
      this.#look(fd, waiting, true)
      return
    }
  }

  /** Peeks and asks the reader. Returns whether the connection has left. `last`: it must be decided on now. */
  #look(fd: number, waiting: Waiting, last: boolean): boolean {
    const length = native.peek(fd, this.#buffer, 0, this.#buffer.length)
    const ended = last || length === 0 || length === this.#buffer.length
    if (length < 0 && length !== EAGAIN) {
      this.#forget(fd, waiting)
      native.close(fd) // it was reset: there is no client to serve
      return true
    }
    if (!ended && (length === EAGAIN || length === waiting.seen)) return false
    waiting.seen = Math.max(0, length)
    const place = this.#reader.decide(this.#buffer.subarray(0, waiting.seen), ended, waiting.address)
    if (place === undefined || waiting.gone) return waiting.gone
    this.#forget(fd, waiting)
    this.#reader.take(fd, place)
    return true
  }

  /** Removes a connection from the set before it is sent or closed, because epoll(7) would still report it. */
  #forget(fd: number, waiting: Waiting): void {
    waiting.gone = true
    if (this.#waiting.delete(fd)) native.edgeRemove(this.#set, fd)
  }

  #expire(): void {
    this.#timer = undefined
    const now = performance.now()
    for (const [fd, waiting] of this.#waiting) {
      if (waiting.until > now) {
        this.#timer = setTimeout(() => this.#expire(), waiting.until - now)
        return
      }
      this.#look(fd, waiting, true)
    }
  }
}
