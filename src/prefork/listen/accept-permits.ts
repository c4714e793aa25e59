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
  readonly #name: string
  readonly #listener: number
  /** The listener is readable while connections wait. This edge-triggered set reports only new ones (EPOLLET, epoll(7)). */
  readonly #set: number
  readonly #watcher: Watcher
  /** Connections that each worker has not confirmed yet. */
  readonly #unconfirmed = new Map<Recipient, number>()
  /** What `countWaiting()` has read: the permits that workers had not used, and the queue. */
  readonly #unused = new Map<Recipient, number>()
  #queued = 0

  /** `name`: the listener's. Borrows `listener` until `end()`. Calls `onNews` for new connections, after `want(true)`. */
  constructor(name: string, listener: number, onNews: () => void) {
    this.#name = name
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

  /** Returns the number of queued connections that no worker was told to accept. Undefined: there are some, and the kernel does not report the number. */
  countWaiting(): number | undefined {
    this.#unused.clear()
    // Before it counts the queue: so a connection that a worker accepts meanwhile is not given out twice
    let told = 0
    for (const worker of this.#unconfirmed.keys()) {
      const unused = this.unused(worker)
      if (unused > 0) this.#unused.set(worker, unused)
      told += unused
    }
    const queued = native.queued(this.#listener)
    this.#queued = queued === EAGAIN ? 0 : queued
    return queued === EAGAIN ? undefined : Math.max(0, queued - told)
  }

  /**
   * Call it after `countWaiting()`, if all of them are given out and some worker still wants more. A worker that has just accepted, and has not counted that
   * yet, seems to have permits for connections that are left. So such workers are asked for a message as soon as they have counted. Returns false if
   * one has counted meanwhile: look again.
   */
  areCertain(): boolean {
    if (this.#queued <= 0) return true
    for (const worker of this.#unused.keys()) worker.wantMessage(this.#name)
    for (const [worker, unused] of this.#unused) if (this.unused(worker) !== unused) return false
    return true
  }

  /** The number of permits that the worker has not confirmed by a message. It will send one. */
  of(worker: Recipient): number {
    return this.#unconfirmed.get(worker) ?? 0
  }

  /** The number of permits that the worker has not used, as far as is known. */
  unused(worker: Recipient): number {
    const unconfirmed = this.of(worker)
    return Math.min(unconfirmed, worker.unusedPermits(this.#name) ?? unconfirmed)
  }

  add(worker: Recipient, count: number): void {
    this.#unconfirmed.set(worker, this.of(worker) + count)
    const unused = this.#unused.get(worker)
    if (unused !== undefined) this.#unused.set(worker, unused + count)
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
