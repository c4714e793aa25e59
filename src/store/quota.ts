/** How much each user, and all together, may keep in a store. */
import { checkInteger } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'

export interface StoreQuota {
  /** Descriptors of all entries. */
  descriptors?: number
  /** Entries. */
  names?: number
  /** Bytes of all names and values. */
  bytes?: number
}

export type Amount = Readonly<Record<keyof StoreQuota, number>>

const QUOTA = { descriptors: true, names: true, bytes: true } as const satisfies KnownOptions<StoreQuota>
const WHATS = ['descriptors', 'names', 'bytes'] as const

/** Throws ERR_PASSFD_INVALID_ARGUMENT. What is not given is as in `preset`. */
export function quotaOf(given: StoreQuota, preset: Amount, what: string): Amount {
  const quota = { ...preset, ...readOptions(given, QUOTA, what) }
  for (const name of WHATS) checkInteger(quota[name], `${what}.${name}`, 0, Number.MAX_SAFE_INTEGER)
  return quota
}

export interface Quotas {
  /** Of all users together. */
  readonly total: Amount
  of(user: number): Amount
}

interface Used {
  descriptors: number
  names: number
  bytes: number
}

/** Counts what is stored, by the user who has put it. */
export class Usage {
  readonly #quotas: Quotas
  readonly #users = new Map<number, Used>()
  readonly #all: Used = { descriptors: 0, names: 0, bytes: 0 }

  constructor(quotas: Quotas) {
    this.#quotas = quotas
  }

  get all(): Amount {
    return this.#all
  }

  /** Throws ERR_PASSFD_STORE_FULL if `more` would be too much, when `less` of the user `lessUser` has gone. Counts nothing. */
  check(user: number, more: Amount, less?: Amount, lessUser?: number): void {
    const mine = this.#users.get(user)
    const quota = this.#quotas.of(user)
    for (const what of WHATS) {
      const freed = less?.[what] ?? 0
      const own = (mine?.[what] ?? 0) + more[what] - (lessUser === user ? freed : 0)
      if (own > quota[what]) throw full(`${what} of user ${user}`, quota[what])
      if (this.#all[what] + more[what] - freed > this.#quotas.total[what])
        throw full(`${what} of all users`, this.#quotas.total[what])
    }
  }

  add(user: number, more: Amount): void {
    let mine = this.#users.get(user)
    if (mine === undefined) {
      mine = { descriptors: 0, names: 0, bytes: 0 }
      this.#users.set(user, mine)
    }
    for (const used of [mine, this.#all]) for (const what of WHATS) used[what] += more[what]
  }

  remove(user: number, less: Amount): void {
    const mine = this.#users.get(user)!
    for (const used of [mine, this.#all]) for (const what of WHATS) used[what] -= less[what]
    if (mine.names === 0) this.#users.delete(user)
  }
}

function full(what: string, limit: number): PassfdError {
  const data = { what, limit }
  return new PassfdError('STORE_FULL', data, { data })
}
