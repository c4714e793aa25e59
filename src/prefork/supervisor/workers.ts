/** The living workers, and which of them get the connections of a listener. */
import type { WorkerProcess } from './worker-process.ts'

export class Workers implements Iterable<WorkerProcess> {
  /** The workers whose processes have not all ended. */
  readonly #living = new Set<WorkerProcess>()
  /** Listeners of which a worker's program has a copy. */
  readonly #exposed = new Set<string>()
  /** Workers that stop on their own and accept no more of the waiting connections. */
  readonly #letGo = new WeakSet<WorkerProcess>()
  /** Starting workers will take connections that they are sent. */
  #startingServe: boolean

  /** `startingServe`: false for programs that accept by themselves. */
  constructor(startingServe: boolean) {
    this.#startingServe = startingServe
  }

  [Symbol.iterator](): IterableIterator<WorkerProcess> {
    return this.#living[Symbol.iterator]()
  }

  add(worker: WorkerProcess): void {
    this.#living.add(worker)
  }

  delete(worker: WorkerProcess): void {
    this.#living.delete(worker)
  }

  filter(which: (worker: WorkerProcess) => boolean): WorkerProcess[] {
    return [...this.#living].filter(which)
  }

  some(is: (worker: WorkerProcess) => boolean): boolean {
    return [...this.#living].some(is)
  }

  /** Resolves when all workers that live now have ended. */
  async allExited(): Promise<void> {
    await Promise.all([...this.#living].map(worker => worker.exited))
  }

  /** Notes that a worker's program has a copy of the listener, so other programs may have one, too. */
  expose(name: string): void {
    this.#exposed.add(name)
  }

  /** Notes that the worker stops while its supervisor goes on: connections that it is sent may come back. */
  letGo(worker: WorkerProcess): void {
    this.#letGo.add(worker)
  }

  /** Notes that all are killed, so that no starting worker will become ready. */
  expectNone(): void {
    this.#startingServe = false
  }

  /** Returns the starting workers that the supervisor does not stop. */
  expected(): WorkerProcess[] {
    if (!this.#startingServe) return []
    return this.filter(({ state, told, ended }) => state === 'starting' && !told && !ended)
  }

  /** Returns the workers that get new connections. */
  ready(): WorkerProcess[] {
    return this.filter(worker => worker.state === 'ready' && !worker.ended && !worker.unreachable && !worker.replaced)
  }

  /** Returns the workers that take connections of a listener: the ready ones, or without these the ones that stop. */
  servers(name: string): WorkerProcess[] {
    const able = this.filter(
      ({ uses, ended, unreachable }) => !ended && !unreachable && uses.get(name)?.adopts === true
    )
    const ready = able.filter(({ state }) => state === 'ready')
    if (ready.length > 0) return ready
    const stopping = able.filter(({ state }) => state === 'stopping')
    const staying = stopping.filter(worker => !this.#letGo.has(worker))
    // Workers that were let go may send them back when no worker is left
    return staying.length > 0 || this.expected().length > 0 ? staying : stopping
  }

  /** Whether some worker takes connections of the listener, or will. */
  isServed(name: string): boolean {
    return this.servers(name).length > 0 || this.expected().length > 0
  }

  /** Whether no other program holds a copy of it, and every worker that accepts from it handles its end. */
  isExclusive(name: string): boolean {
    const serving = this.filter(({ uses }) => uses.get(name)?.adopts === true)
    return !this.#exposed.has(name) && serving.every(({ knowsEnds }) => knowsEnds)
  }
}
