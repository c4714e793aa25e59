/** Connections that no worker has: a worker has given them back, or the supervisor accepted them when its listeners ended. */
import { deferred } from '../../base/deferred.ts'
import { MAX_RIGHTS } from '../../base/kernel-limits.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { WorkerProcess } from './worker-process.ts'
import type { Workers } from './workers.ts'

/** Takes connections back while it is open: a listener. */
interface Taker {
  giveBack(connections: readonly Descriptor[]): void
}

export class ReturnedConnections {
  readonly #workers: Workers
  readonly #listener: (name: string) => Taker | undefined
  /** Connections of a stop. The first worker that becomes ready gets them, because no worker serves them yet. */
  #held: { name: string; connections: readonly Descriptor[] }[] = []
  readonly #orElse: (name: string, connections: readonly Descriptor[]) => void
  #turn = 0

  /** `listener` returns the open listener of that name. `orElse` gets connections that no worker takes, and owns them. */
  constructor(
    workers: Workers,
    listener: (name: string) => Taker | undefined,
    orElse: (name: string, connections: readonly Descriptor[]) => void
  ) {
    this.#workers = workers
    this.#listener = listener
    this.#orElse = orElse
  }

  /** Gives them to other workers when this one has ended. Until then it may have taken them without confirming it. */
  from(worker: WorkerProcess, name: string, connections: readonly Descriptor[]): void {
    void worker.exited.then(() => {
      const listener = this.#listener(name)
      if (listener !== undefined) listener.giveBack(connections)
      else this.giveToAnybody(name, connections)
    })
  }

  /** For the stop: workers that stop still serve connections that they are sent. A worker that has sent its goodbye returns them. */
  giveToAnybody(name: string, connections: readonly Descriptor[]): void {
    const able = this.#workers.servers(name)
    if (able.length === 0 && this.#workers.expected().length > 0) {
      this.#held.push({ name, connections })
      return
    }
    const share = Math.min(MAX_RIGHTS, Math.ceil(connections.length / Math.max(1, able.length)))
    for (let at = 0; at < connections.length; at += share) {
      const some = connections.slice(at, at + share)
      if (able.length === 0) this.#orElse(name, some)
      else void able[this.#turn++ % able.length]!.send({ type: 'connections', name, connections: some })
    }
  }

  /** Waits at most `timeout` ms for ready workers that serve the held connections, and gives these to them. */
  async giveHeld(timeout: number): Promise<void> {
    if (this.#held.length === 0) return
    const over = deferred()
    let isOver = false
    const timer = setTimeout(() => {
      isOver = true
      over.resolve()
    }, timeout)
    while (!isOver && this.#held.some(({ name }) => this.#workers.servers(name).length === 0)) {
      const expected = this.#workers.expected()
      if (expected.length === 0) break
      await Promise.race([over.promise, ...expected.map(worker => worker.ready.catch(() => worker.exited))])
    }
    clearTimeout(timer)
    for (const worker of this.#workers.expected()) void worker.stop({ last: true })
    for (const { name, connections } of this.#held.splice(0)) this.giveToAnybody(name, connections)
  }
}
