/**
 * Who was told to accept how many connections of a listener. They are in its queue, in the kernel, until a worker accepts them: a supervisor that
 * is killed takes none of them along.
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
  /** The listener is readable as long as it has a queue. The set reports new connections only (EPOLLET, epoll(7)). */
  readonly #set: number
  readonly #watcher: Watcher
  /** Connections that each worker has not confirmed yet. */
  readonly #unconfirmed = new Map<Recipient, number>()

  /** Borrows `listener` until `end()`. `onNews` is called when connections have come, while they are wanted. */
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

  /** Connections in the queue that no worker was told to accept. Undefined: there are some, and the kernel does not say how many. */
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

  /** The worker has accepted them, or the queue was empty. For a worker that was forgotten it changes nothing. */
  confirm(worker: Recipient, count: number): void {
    const left = this.of(worker) - count
    if (left > 0) this.#unconfirmed.set(worker, left)
    else this.#unconfirmed.delete(worker)
  }

  /** What other workers were to accept is in the queue as long as they have not: for these. A stopping one may find nobody left. */
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
