/** The superseded processes that still drain: the direct predecessor tells of itself and of those before it. */
import { type Descriptor, own } from '../descriptor/descriptor.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import type { Draining } from './messages.ts'

/** A process that is watched until it ends (pidfd_open(2)): nobody may be left to tell of it. */
interface Watched {
  readonly descriptor: Descriptor
  readonly watcher: Watcher
}

export class Drainers {
  readonly #onChange: () => void
  /** By pid, in the order in which they were superseded, the newest first. */
  #processes = new Map<number, Draining>()
  readonly #watched = new Map<number, Watched>()

  constructor(onChange: () => void) {
    this.#onChange = onChange
  }

  get list(): readonly Draining[] {
    return [...this.#processes.values()]
  }

  /** The direct predecessor tells of itself and of those before it. Others that it does not name any more have ended. */
  told(pid: number, connections: number, chain: readonly Draining[]): void {
    const all = [{ pid, connections }, ...chain]
    for (const known of this.#processes.keys()) if (!all.some(one => one.pid === known)) this.#forget(known)
    this.#processes = new Map(all.map(one => [one.pid, one]))
    for (const one of chain) this.#watch(one.pid)
    this.#onChange()
  }

  /** The direct predecessor's channel has ended. Those before it are listed, as it told last, until they end. */
  ended(pid: number): void {
    const there = this.#processes.delete(pid)
    for (const known of this.#processes.keys()) if (!this.#watched.has(known)) this.#processes.delete(known)
    if (there) this.#onChange()
  }

  close(): void {
    for (const pid of [...this.#watched.keys()]) this.#forget(pid)
  }

  /** A process of another pid namespace can't be watched. */
  #watch(pid: number): void {
    if (this.#watched.has(pid)) return
    const fd = native.pidfd(pid)
    if (fd < 0) return
    const descriptor = own(fd)
    const watcher = new Watcher(descriptor.borrow(), () => {
      this.#forget(pid)
      if (this.#processes.delete(pid)) this.#onChange()
    })
    watcher.unref()
    this.#watched.set(pid, { descriptor, watcher })
  }

  #forget(pid: number): void {
    const watched = this.#watched.get(pid)
    this.#watched.delete(pid)
    watched?.watcher.end()
    watched?.descriptor.close()
  }
}
