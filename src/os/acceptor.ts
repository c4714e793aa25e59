/** Accepts the connections of a listener: one after the other as they come, or all that wait. */
import { EAGAIN, ECONNABORTED, EINTR, EINVAL } from '../base/errno.ts'
import { systemError } from '../base/errors.ts'
import { Watcher } from './loop.ts'
import { FAILED, native } from './native.ts'

/** At the limit of open files the server waits this many ms before it accepts again, because no event reports that there is room. */
export const ACCEPT_PAUSE = 50
/** Connections accepted in one wake-up; the rest waits for the next. */
export const ACCEPT_BATCH = 64
/** Receives the numbers of one `acceptMany`. */
const acceptedNumbers = new Int32Array(256)
/** `acceptWaiting` accepts no more connections than this; the longest queue that Linux allows by default has 4,096. */
const LONGEST_QUEUE = 65_536

/** The result of accepting: the number of connections, and why it could not accept more (-errno, or 0). */
export interface Outcome {
  readonly count: number
  readonly error: number
}

export interface AcceptorOwner {
  /** Connections wait: accepts as many of them as it wants in one wake-up. */
  accept(): Outcome
  /** The kernel gives no connection (EMFILE, ENFILE, ENOMEM, ENOBUFS). Called once until a connection was accepted. */
  onExhausted(error: Error): void
  /** The listener was shut down, or has failed for ever. Without this function the acceptor only stops. */
  onFailed?(): void
}

/** Watches a listener while connections are wanted, and rests when the kernel gives none. */
export class Acceptor {
  readonly #owner: AcceptorOwner
  readonly #watcher: Watcher
  #wanted = false
  #rest: NodeJS.Timeout | undefined
  #exhausted = false

  /** Accepts nothing before `want(true)`. The caller still owns `fd`. Throws the system's error if the loop can't watch it. */
  constructor(fd: number, owner: AcceptorOwner) {
    this.#owner = owner
    this.#watcher = new Watcher(fd, events => this.#ready((events & FAILED) !== 0))
    this.#watcher.want(false, false)
  }

  want(connections: boolean): void {
    this.#wanted = connections
    if (this.#rest === undefined) this.#watcher.want(connections, false)
  }

  /** Keeps the process running while connections are wanted (the default). */
  ref(): void {
    this.#watcher.ref()
  }

  unref(): void {
    this.#watcher.unref()
  }

  /** Stops accepting. Call it before the descriptor is closed or given away. */
  end(): void {
    clearTimeout(this.#rest)
    this.#watcher.end()
  }

  #ready(failed: boolean): void {
    if (failed && this.#owner.onFailed !== undefined) {
      this.#owner.onFailed()
      return
    }
    if (!this.#wanted) return
    const { count, error } = this.#owner.accept()
    if (count > 0) this.#exhausted = false
    if (error < 0 || failed) this.#beginRest()
    // EINVAL: another process has shut it down
    if (error === 0 || error === EINVAL || this.#exhausted) return
    this.#exhausted = true
    this.#owner.onExhausted(systemError(error, 'accept4'))
  }

  #beginRest(): void {
    if (!this.#watcher.active) return // the program has ended it in its own handler
    this.#watcher.want(false, false)
    clearTimeout(this.#rest)
    this.#rest = setTimeout(() => {
      this.#rest = undefined
      this.#watcher.want(this.#wanted, false)
    }, ACCEPT_PAUSE)
  }
}

/** Accepts one connection after the other while they are `wanted`, ACCEPT_BATCH at most. `take` owns each number, which is held. */
export function acceptEach(fd: number, wanted: () => boolean, take: (connection: number) => void): Outcome {
  let count = 0
  for (let tries = 0; tries < ACCEPT_BATCH && wanted(); tries++) {
    const connection = native.accept(fd)
    if (connection === EAGAIN) break
    if (connection === ECONNABORTED || connection === EINTR) continue
    if (connection < 0) return { count, error: connection }
    count++
    take(connection)
  }
  return { count, error: 0 }
}

/** Accepts the waiting connections in one call, ACCEPT_BATCH at most. `take` owns each number, which is held. */
export function acceptBatch(fd: number, take: (connection: number) => void): Outcome {
  const count = native.acceptMany(fd, acceptedNumbers, ACCEPT_BATCH, null)
  if (count <= 0) return { count: 0, error: count }
  for (const connection of Array.from(acceptedNumbers.subarray(0, count))) take(connection) // which may accept itself
  return { count, error: 0 }
}

/**
 * Accepts `most` connections at most; `take` owns each number, which is held. Returns 0, or what has kept it from accepting more (-errno).
 */
export function acceptUpTo(fd: number, most: number, take: (connection: number) => void): number {
  for (let left = most; left > 0; ) {
    const count = native.acceptMany(fd, acceptedNumbers, Math.min(left, acceptedNumbers.length), null)
    if (count <= 0) return count
    for (const connection of Array.from(acceptedNumbers.subarray(0, count))) take(connection) // which may accept itself
    left -= count
  }
  return 0
}

/** Accepts all waiting connections. Returns false if some are left because no descriptor is free. */
export function acceptWaiting(fd: number, take: (connection: number) => void): boolean {
  const error = acceptUpTo(fd, LONGEST_QUEUE, take)
  // The queue of a listener that was shut down is empty
  return error === 0 || error === EINVAL
}
