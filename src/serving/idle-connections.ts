/**
 * Idle connections that another process has served, before their next request. Node's server would take them for new ones, and answer 408 if that request
 * does not come in time; a client would take this for the answer to a request that it is just sending. So the server gets each with its first byte.
 */
import { throwLater } from '../base/throw-later.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import type { PassOn } from './intake.ts'

/** How a connection goes on. Each function is called at most once. */
export interface IdleConnection {
  /** A request begins, or nothing can wait for one. The callee owns the number. */
  serve(): void
  /** It is not here any more, and was not served. */
  gone(): void
}

interface Waiting extends IdleConnection {
  readonly since: number
  readonly timer: NodeJS.Timeout | undefined
}

const EVENTS = 64

export class IdleConnections {
  readonly #waiting = new Map<number, Waiting>()
  readonly #told = new Int32Array(EVENTS)
  #set: { readonly fd: number; readonly watcher: Watcher } | undefined

  get size(): number {
    return this.#waiting.size
  }

  /** Owns the number from now on. `timeout`: it closes the connection if no byte comes within so many ms; 0: no limit. */
  add(fd: number, timeout: number, then: IdleConnection): void {
    this.#set ??= this.#open()
    if (this.#set === undefined || native.edgeAdd(this.#set.fd, fd) < 0) {
      then.serve()
      return
    }
    // Node's servers, too, take a longer one for the longest
    const timer = timeout > 0 ? setTimeout(() => this.#expire(fd), Math.min(timeout, MAX_TIMEOUT)).unref() : undefined
    this.#waiting.set(fd, { ...then, since: performance.now(), timer })
  }

  /** Gives all to `pass`. Closes those that nobody takes and that have been here for `idleGrace` ms. Those whose request has begun are served. */
  drain(idleGrace: number, pass: PassOn | undefined): void {
    const now = performance.now()
    for (const [fd, { since }] of [...this.#waiting]) {
      if (native.pending(fd) > 0) {
        this.#serve(fd)
        continue
      }
      const passed = pass?.(fd) ?? false
      if (passed === true) this.#remove(fd)?.gone()
      else if (passed === false && now - since >= idleGrace) this.#close(fd)
    }
  }

  /** Closes all of them. */
  close(): void {
    for (const fd of [...this.#waiting.keys()]) this.#close(fd)
  }

  #open(): { fd: number; watcher: Watcher } | undefined {
    const fd = native.edgeSet()
    if (fd < 0) return undefined
    try {
      const watcher = new Watcher(fd, () => this.#happened(fd))
      watcher.unref() // as of a server, its listeners keep the process running
      return { fd, watcher }
    } catch {
      native.close(fd)
      return undefined
    }
  }

  #happened(set: number): void {
    const count = native.edgeReady(set, this.#told)
    // All at once, because the program's code may close further ones
    for (const told of this.#told.slice(0, count)) {
      const fd = told < 0 ? ~told : told // the complement: the client has ended
      if (!this.#waiting.has(fd)) continue
      if (told < 0 && native.pending(fd) <= 0) this.#close(fd)
      else this.#serve(fd)
    }
  }

  /** What the program throws does not keep others from being served. */
  #serve(fd: number): void {
    try {
      this.#remove(fd)?.serve()
    } catch (error) {
      throwLater(error)
    }
  }

  #expire(fd: number): void {
    // After a stall timers run before what waits is read
    if (native.pending(fd) > 0) this.#serve(fd)
    else this.#close(fd)
  }

  #close(fd: number): void {
    const waiting = this.#remove(fd)
    if (waiting === undefined) return
    native.close(fd)
    waiting.gone()
  }

  #remove(fd: number): Waiting | undefined {
    const waiting = this.#waiting.get(fd)
    if (waiting === undefined) return undefined
    this.#waiting.delete(fd)
    clearTimeout(waiting.timer)
    native.edgeRemove(this.#set!.fd, fd)
    if (this.#waiting.size === 0) {
      this.#set!.watcher.end()
      native.close(this.#set!.fd)
      this.#set = undefined
    }
    return waiting
  }
}
