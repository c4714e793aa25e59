/** `LoanEnds`: reports the loans of a pool that have ended. A loan ends when no process holds its token, the write end of its pipe, any more. */

import { EAGAIN } from '../base/errno.ts'
import { checked } from '../base/errors.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'

/** How many ends one call of the kernel reports. */
const FEW = 128
const reported = new Int32Array(FEW)
const words = new Uint8Array(64)

/**
 * The read ends of the pipes, in one set (epoll(7)) that reports a pipe once, when it has hung up. Bytes in a pipe are no event, so a reader can't wake
 * this process by them. A pipe is read and closed after it has hung up, because nobody can hold its lock then.
 */
export class LoanEnds {
  readonly #ended: (fd: number, word: number) => void
  readonly #fds = new Set<number>()
  readonly #set: number
  readonly #watcher: Watcher

  /**
   * `ended` gets the number of a read end, which is closed, and the last byte that the reader has written, or 0. Throws system errors: `EMFILE`, …
   */
  constructor(ended: (fd: number, word: number) => void) {
    this.#ended = ended
    this.#set = checked(native.edgeSet(), 'epoll_create')
    try {
      this.#watcher = new Watcher(this.#set, () => this.collect())
    } catch (error) {
      native.close(this.#set)
      throw error
    }
    this.#watcher.unref()
  }

  /** Takes a read end over. If this throws a system error, the caller still owns it. */
  add(fd: number): void {
    checked(native.edgeAddEnd(this.#set, fd), 'epoll_ctl')
    this.#fds.add(fd)
  }

  /** Reports the loans that have ended by now. The event loop calls it as well. */
  collect(): void {
    for (let count = FEW; count === FEW && this.#watcher.active; ) {
      count = native.edgeReady(this.#set, reported)
      for (const told of reported.slice(0, Math.max(0, count))) this.#end(told < 0 ? ~told : told)
    }
  }

  /** Whether it keeps the process running. Default: no. */
  keepRunning(on: boolean): void {
    if (on) this.#watcher.ref()
    else this.#watcher.unref()
  }

  /** Closes all of them, and reports nothing more. */
  close(): void {
    if (!this.#watcher.active) return
    this.#watcher.end()
    for (const fd of [...this.#fds, this.#set]) native.close(fd)
    this.#fds.clear()
  }

  #end(fd: number): void {
    if (!this.#fds.has(fd)) return // it was closed together with the others
    const length = native.readNow(fd, words, 0, words.length)
    if (length === EAGAIN) return
    this.#fds.delete(fd)
    native.close(fd)
    this.#ended(fd, length > 0 ? words[length - 1]! : 0)
  }
}
