/** Connections that no worker has: a worker has given them back or passed them on, or the supervisor accepted them when its listeners ended. */
import { deferred } from '../../base/deferred.ts'
import { MAX_RIGHTS } from '../../base/kernel-limits.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { WorkerProcess } from './worker-process.ts'
import type { Workers } from './workers.ts'

/** Takes connections back while it is open: a listener. */
interface Taker {
  giveBack(connections: readonly Descriptor[]): void
}

/** Resolves when there is room for more. `slot`: they are idle, and the worker in that slot has served them. */
type OrElse = (name: string, connections: readonly Descriptor[], slot?: number) => Promise<void>

export class ReturnedConnections {
  readonly #workers: Workers
  readonly #listener: (name: string) => Taker | undefined
  /** Connections of a stop. The first worker that becomes ready gets them, because no worker serves them yet. */
  #held: { name: string; connections: readonly Descriptor[] }[] = []
  readonly #orElse: OrElse
  /** Workers whose channels have ended, and whose connections others do not have yet. */
  readonly #unsettled = new Set<WorkerProcess>()
  #changed = deferred()
  #turn = 0
  /** Settles when the idle connections so far have their workers. */
  #passing: Promise<void> = Promise.resolve()

  /** `listener` returns the open listener of that name. `orElse` gets connections that no worker takes, and owns them. */
  constructor(workers: Workers, listener: (name: string) => Taker | undefined, orElse: OrElse) {
    this.#workers = workers
    this.#listener = listener
    this.#orElse = orElse
  }

  /** Gives them to other workers when this one has ended. Until then it may have taken them without confirming it. `idle`: see `pass()`. */
  from(worker: WorkerProcess, name: string, connections: readonly Descriptor[], idle: boolean): void {
    this.#unsettled.add(worker)
    void worker.exited.then(async () => {
      const listener = this.#listener(name)
      try {
        if (idle) await this.pass(worker, name, connections)
        else if (listener !== undefined) listener.giveBack(connections)
        else this.giveToAnybody(name, connections)
      } finally {
        this.#unsettled.delete(worker)
        this.look()
      }
    })
  }

  /** Call it when a worker has taken all that it was sent. */
  look(): void {
    this.#changed.resolve()
    this.#changed = deferred()
  }

  /**
   * Returns a worker that must not stop yet, because another one has not taken all that it was sent: if that is killed, these connections come back.
   * Undefined: there is nothing to wait for, or nobody who could serve them.
   */
  keeper(): WorkerProcess | undefined {
    if (this.#areSettled) return undefined
    // One that has been replaced serves what it is sent as well
    const able = this.#workers.filter(({ state, ended, unreachable }) => state === 'ready' && !ended && !unreachable)
    const free = able.filter(worker => worker.unconfirmed === 0 && !this.#unsettled.has(worker))
    const best = free.find(({ replaced }) => !replaced) ?? free[0]
    // If what is to come back is another worker's, one that has not taken all yet will do
    return best ?? (this.#unsettled.size > 0 ? able[0] : undefined)
  }

  /** Resolves when all have taken what they were sent, or others have got it; at the latest after `timeout` ms, or when `over` resolves. */
  async settled(timeout: number, over: Promise<void>): Promise<void> {
    let isOver = false
    const end = deferred()
    const timer = setTimeout(end.resolve, timeout)
    void Promise.race([end.promise, over]).then(() => {
      isOver = true
      this.look()
    })
    while (!isOver && !this.#areSettled) await this.#changed.promise
    clearTimeout(timer)
    end.resolve()
  }

  get #areSettled(): boolean {
    return this.#unsettled.size === 0 && !this.#workers.some(({ unconfirmed }) => unconfirmed > 0)
  }

  /**
   * Gives idle connections of a worker that stops to the worker that has its slot now, because a route may have chosen that; or else to others in
   * turn. Resolves when there is room for more.
   */
  pass(from: Pick<WorkerProcess, 'slot'>, name: string, connections: readonly Descriptor[]): Promise<void> {
    // One message after the other, so that those of many workers do not exceed what one channel may carry
    const passed = this.#passing.then(() => this.#pass(from, name, connections))
    this.#passing = passed.catch(() => {}) // a failure does not affect those behind it
    return passed
  }

  async #pass(from: Pick<WorkerProcess, 'slot'>, name: string, connections: readonly Descriptor[]): Promise<void> {
    const able = this.#workers
      .ready()
      .filter(worker => worker !== from && worker.uses.get(name)?.adopts === true && worker.hasRoom(connections.length))
    const heir = able.find(({ slot }) => slot === from.slot)
    const heirs = heir === undefined ? able : [heir]
    if (heirs.length === 0) {
      await this.#orElse(name, connections, from.slot)
      return
    }
    const shares = heirs.map((): Descriptor[] => [])
    for (const connection of connections) shares[this.#turn++ % shares.length]!.push(connection)
    await Promise.all(shares.map((share, index) => (share.length === 0 ? undefined : heirs[index]!.pass(name, share))))
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
      if (able.length === 0) void this.#orElse(name, some)
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
