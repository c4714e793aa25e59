/** Connections whose first bytes are looked at (MSG_PEEK, recv(2)) before a worker gets them. */
import { EAGAIN } from '../../base/errno.ts'
import { checked } from '../../base/errors.ts'
import { Watcher } from '../../os/loop.ts'
import { native } from '../../os/native.ts'

/** So many wait, and no more of them than a quarter of the descriptors that this process may have. */
const MAX_WAITING = 4096
const DESCRIPTORS_EACH = 4
const EVENTS = 64

/** Decides by its first bytes where a connection goes. */
export interface FirstBytesReader<Place> {
  /** Undefined: it wants more bytes; not when `ended`. `head` is valid during the call only. */
  decide(head: Buffer, ended: boolean, address: string | undefined): Place | undefined
  /** The connection is its own from now on. */
  take(fd: number, place: Place): void
}

interface Waiting {
  readonly address: string | undefined
  readonly until: number
  /** How many bytes it was asked about. */
  seen: number
  /** Decided on: who is asked may close us, so that it is asked once more meanwhile. */
  gone: boolean
}

export class FirstBytes<Place> {
  readonly #buffer: Buffer
  readonly #timeout: number
  readonly #reader: FirstBytesReader<Place>
  /** In the order of their time limits. */
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

  /** A connection to be decided on. If too many wait, the one that has waited longest waits no more: what is there has to do. */
  add(fd: number, address: string | undefined): void {
    const waiting = { address, until: performance.now() + this.#timeout, seen: 0, gone: false }
    if (this.#look(fd, waiting, this.#closed)) return
    if (this.#waiting.size >= Math.min(MAX_WAITING, native.limit() / DESCRIPTORS_EACH)) this.#lookAtOldest()
    // Who is asked may close us. The set tells of news only: bytes that are there and don't suffice would keep the loop busy
    if (this.#closed || native.edgeAdd(this.#set, fd) < 0) {
      this.#look(fd, waiting, true)
      return
    }
    this.#waiting.set(fd, waiting)
    this.#timer ??= setTimeout(() => this.#expire(), this.#timeout)
  }

  /** All have to do with what is there. */
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

  /** Returns whether it has gone. `last`: nothing more is to be waited for. */
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

  /** Before it is sent away or closed: epoll(7) would go on telling of it. */
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
