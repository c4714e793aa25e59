/** What a client has taken, and not kept yet. */
import { PassfdError } from '../base/errors.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Kind } from '../descriptor/kind.ts'
import type { Given } from './messages.ts'

export interface LeaseOwner {
  keep(lease: StoreLease): Promise<void>
  release(lease: StoreLease): Promise<void>
  /** It is settled. */
  over(lease: StoreLease): void
  /** Puts what was leased from a store that was lost into the new one. The descriptors are moved in. */
  putBack(given: Given, descriptors: readonly Descriptor[]): Promise<void>
}

/**
 * - leased: the store has it, too
 * - own: the store was lost, so nobody else has it
 * - over: the store has it back, and another process may have it
 * - settled: by `keep()` or `release()`
 */
type State = 'leased' | 'own' | 'over' | 'settled'

/** An entry that this process has taken. Until `keep()` the store has copies, and gives it to others if this process ends. */
export class StoreLease implements AsyncDisposable {
  /** The store's number of the entry. */
  readonly entry: number
  readonly name: string
  /** The user whose name it is. */
  readonly owner: number
  /** The caller owns them. */
  readonly descriptors: readonly Descriptor[]
  /** The kind of each. */
  readonly kinds: readonly Kind[]
  readonly #given: Given
  readonly #owner: LeaseOwner
  #state: State = 'leased'
  #value: unknown
  /** `keep()` or `release()` is under way, and its answer decides. */
  #isSettling = false
  /** Meanwhile the store has said that this client does not lease it: it is kept, or was over before. */
  #isDoubtful = false

  /** @internal The descriptors in `given` are moved in. */
  constructor(given: Given, owner: LeaseOwner) {
    this.entry = given.entry
    this.name = given.name
    this.owner = given.owner
    this.descriptors = given.descriptors
    this.kinds = given.kinds
    this.#given = given
    this.#owner = owner
  }

  /** What was put beside the descriptors; undefined: nothing. */
  get value(): unknown {
    return this.#value
  }

  /** The first of the descriptors. */
  get descriptor(): Descriptor {
    return this.descriptors[0]!
  }

  /**
   * The store closes its copies: the entry is this process's alone. Rejects with ERR_PASSFD_STORE_LEASE_OVER if the store has given it back to others meanwhile
   * (the connection was lost, or this was called before): close the descriptors then.
   */
  async keep(): Promise<void> {
    if (this.#state === 'own') {
      this.#settle()
      return
    }
    this.checkNotOver()
    await this.#unlessOwn(() => this.#owner.keep(this))
    this.#settle()
  }

  /** Closes the descriptors that are still open here, and gives the entry back to the store. Rejects as `keep()`. */
  async release(): Promise<void> {
    const isOwn = this.#state === 'own'
    if (!isOwn) this.checkNotOver()
    const open = this.descriptors.filter(({ closed }) => !closed)
    if (isOwn && open.length === this.descriptors.length) {
      this.#settle()
      await this.#owner.putBack(this.#given, open)
      return
    }
    for (const descriptor of open) descriptor.close()
    if (!isOwn) await this.#unlessOwn(() => this.#owner.release(this))
    this.#settle()
  }

  /** Releases it, unless it was kept or released. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === 'leased' || this.#state === 'own') await this.release()
  }

  /** @internal */
  read(value: unknown): void {
    this.#value = value
  }

  /** @internal Throws ERR_PASSFD_STORE_LEASE_OVER. */
  checkNotOver(): void {
    if (this.#state !== 'leased') throw new PassfdError(this.#isDoubtful ? 'STORE_UNKNOWN' : 'STORE_LEASE_OVER')
  }

  /** @internal The store was lost. `died`: while it had this lease. */
  storeWasLost(died: boolean): void {
    if (this.#state === 'leased') this.#state = died && !this.#isDoubtful ? 'own' : 'over'
  }

  /** @internal The store has it back, or has answered what is under way. */
  isOver(): void {
    if (this.#isSettling) {
      this.#isDoubtful = true
      return
    }
    if (this.#state === 'leased') this.#state = 'over'
    this.#owner.over(this)
  }

  #settle(): void {
    this.#state = 'settled'
    this.#owner.over(this)
  }

  /** The store may be lost while it is asked: nobody else has the entry then. */
  async #unlessOwn(ask: () => Promise<void>): Promise<void> {
    this.#isSettling = true
    try {
      await ask()
    } catch (error) {
      if ((this.#state as State) !== 'own') throw error
    } finally {
      this.#isSettling = false
    }
  }
}
