/** The process of a `program` that listens, which is the worker, and the listeners that it was given. */
import { randomBytes } from 'node:crypto'
import type { Descriptor } from '../../descriptor/descriptor.ts'

export class ListeningProcess {
  /** Only a process of this worker knows it, from its environment. */
  readonly token = randomBytes(16).toString('hex')
  #pid: number | undefined
  /** The worker's ends of its channels, until a process listens. */
  #ends: readonly Descriptor[] = []
  /** The listeners that it was given and has not left, by name, with the number of the grant. */
  readonly #granted = new Map<string, number>()
  #grants = 0
  /** Settles when the questions so far are answered. */
  #answered: Promise<unknown> = Promise.resolve()

  /** Undefined: none listens yet, or the worker is no `program`. */
  get pid(): number | undefined {
    return this.#pid
  }

  /** Keeps the ends, which are moved in, for the process that will listen. */
  keep(ends: readonly Descriptor[]): void {
    this.#ends = ends
  }

  /** Answers the questions of the worker's processes one after the other, so that no listener is opened for a process that is not the worker. */
  inTurn<T>(answer: () => Promise<T>): Promise<T> {
    const result = this.#answered.then(answer)
    this.#answered = result.catch(() => {})
    return result
  }

  /** Whether this process may listen: the first one that asks may. */
  admits(pid: number): boolean {
    return (this.#pid ?? pid) === pid
  }

  /** The process `pid` listens. Returns the ends, which the caller owns; undefined if it listens already. `welcome` is called before, and may throw. */
  begin<T>(pid: number, welcome: () => T): { welcome: T; ends: readonly Descriptor[] } | undefined {
    if (this.#ends.length === 0) return undefined
    const result = { welcome: welcome(), ends: this.#ends }
    this.#ends = []
    this.#pid = pid
    return result
  }

  /** Whether it was given this listener, and has not left it. */
  has(name: string): boolean {
    return this.#granted.has(name)
  }

  /**
   * Notes that it was given this listener. Returns the number of the grant: the same one until it leaves the listener, because what it says of that may
   * still be under way.
   */
  grant(name: string): number {
    const id = this.#granted.get(name) ?? ++this.#grants
    this.#granted.set(name, id)
    return id
  }

  /** Whether what it says of this grant is not late. */
  isCurrent(name: string, grant: number | undefined): boolean {
    return grant !== undefined && this.#granted.get(name) === grant
  }

  left(name: string): void {
    this.#granted.delete(name)
  }

  /** Closes what no process has taken. */
  close(): void {
    for (const end of this.#ends) end.close()
    this.#ends = []
  }
}
