/**
 * Counts how many connections of a listener each worker was told to accept. The connections stay in the kernel's queue until a worker accepts
 * them, so a killed supervisor loses none.
 */
import { EAGAIN } from '../../base/errno.ts'
import { checked, systemError } from '../../base/errors.ts'
import { Watcher } from '../../os/loop.ts'
import { native } from '../../os/native.ts'
import type { Recipient } from './recipient.ts'

/** The result of an edge set with one member. */
const NEWS = new Int32Array(1)

export class AcceptPermits {
  readonly #listener: number
  /** The listener is readable while connections wait. This edge-triggered set reports only new ones (EPOLLET, epoll(7)). */
  readonly #set: number
  readonly #watcher: Watcher
  /** Connections that each worker has not confirmed yet. */
  readonly #unconfirmed = new Map<Recipient, number>()

  /** Borrows `listener` until `end()`. Calls `onNews` for new connections, after `want(true)`. */
  constructor(listener: number, onNews: () => void) {
    this.#listener = listener
    this.#set = checked(native.edgeSet(), 'epoll_create')
    try {
      const error = native.edgeAdd(this.#set, listener)
      if (error < 0) throw systemError(error, 'epoll_ctl')
      this.#watcher = new Watcher(this.#set, () => {
        native.edgeReady(this.#set, NEWS)
        onNews()
      })
      this.#watcher.want(false, false)
    } catch (error) {
      native.close(this.#set)
      throw error
    }
  }

  /** The number of queued connections that no worker was told to accept. Undefined: there are some, and the kernel does not report the number. */
  get waiting(): number | undefined {
    const queued = native.queued(this.#listener)
    if (queued === EAGAIN) return undefined
    let told = 0
    for (const count of this.#unconfirmed.values()) told += count
    return Math.max(0, queued - told)
  }

  of(worker: Recipient): number {
    return this.#unconfirmed.get(worker) ?? 0
  }

  add(worker: Recipient, count: number): void {
    this.#unconfirmed.set(worker, this.of(worker) + count)
  }

  /** Notes that the worker has accepted them, or found the queue empty. It changes nothing for a worker that was forgotten. */
  confirm(worker: Recipient, count: number): void {
    const left = this.of(worker) - count
    if (left > 0) this.#unconfirmed.set(worker, left)
    else this.#unconfirmed.delete(worker)
  }

  /** Forgets the permits of all other workers. Connections that those have not accepted are still queued, so `servers` may accept them. */
  forgetAllBut(servers: readonly Recipient[]): void {
    for (const worker of this.#unconfirmed.keys()) if (!servers.includes(worker)) this.#unconfirmed.delete(worker)
  }

  want(news: boolean): void {
    this.#watcher.want(news, false)
  }

  end(): void {
    if (!this.#watcher.active) return
    this.#watcher.end()
    native.close(this.#set)
  }
}
