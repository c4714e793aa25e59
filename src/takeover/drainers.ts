/** The superseded processes that still drain. The direct predecessor reports itself and those before it. */
import { type Descriptor, own } from '../descriptor/descriptor.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import type { Draining } from './messages.ts'

/** A process that is monitored until it ends (pidfd_open(2)), because the process that reported it may have ended. */
interface Watched {
  readonly descriptor: Descriptor
  readonly watcher: Watcher
}

export class Drainers {
  readonly #onChange: () => void
  /** The newest first: the direct predecessor, then those before it. */
  #list: readonly Draining[] = []
  readonly #watched = new Map<number, Watched>()

  constructor(onChange: () => void) {
    this.#onChange = onChange
  }

  get list(): readonly Draining[] {
    return this.#list
  }

  /** Gets a report of the direct predecessor, about itself and those before it. */
  told(pid: number, connections: number, chain: readonly Draining[]): void {
    this.#list = [{ pid, connections }, ...chain]
    for (const watched of [...this.#watched.keys()]) if (!chain.some(one => one.pid === watched)) this.#forget(watched)
    for (const one of chain) this.#watch(one.pid)
    this.#onChange()
  }

  /** The direct predecessor's channel has ended. Those before it stay in the list, with their last numbers, until they end. */
  ended(): void {
    if (this.#list.length === 0) return
    this.#list = this.#list.slice(1).filter(({ pid }) => this.#watched.has(pid))
    this.#onChange()
  }

  close(): void {
    for (const pid of [...this.#watched.keys()]) this.#forget(pid)
  }

  /** A process of another pid namespace can't be monitored. */
  #watch(pid: number): void {
    if (this.#watched.has(pid) || pid === process.pid) return
    const fd = native.pidfd(pid)
    if (fd < 0) return
    const descriptor = own(fd)
    const watcher = new Watcher(descriptor.borrow(), () => {
      this.#forget(pid)
      this.#list = this.#list.filter(one => one.pid !== pid)
      this.#onChange()
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
