/** What a store holds under a name. */
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Kind } from '../descriptor/kind.ts'
import type { ClientState } from './client-state.ts'
import { type Expiring, now } from './deadlines.ts'
import type { Given, StoredEntry } from './messages.ts'
import type { Amount } from './quota.ts'

export interface EntryFacts {
  readonly entry: number
  readonly name: string
  readonly owner: number
  /** The store owns them. Nothing borrows their numbers, so that a copy costs no dup(2). */
  readonly descriptors: readonly Descriptor[]
  readonly value: Uint8Array | undefined
  /** Who has put it. */
  readonly uid: number
  readonly pid: number
  /** In ms since 1970. */
  readonly since: number
  /** In ms of `now()`. */
  readonly deadline: number | undefined
  /** The store removes it when the other end of a descriptor hangs up. */
  readonly poll: boolean
}

export interface Lease {
  readonly client: ClientState
  /** The number of the client's request; undefined: it has given none. */
  readonly id: number | undefined
  readonly pid: number
}

export class Entry implements Expiring {
  readonly facts: EntryFacts
  /** Read once: while the descriptors are given to a successor they can't be asked. */
  readonly kinds: readonly Kind[]
  readonly amount: Amount
  lease: Lease | undefined
  /** They have copies, and are told when this is gone. */
  readonly keepers = new Set<ClientState>()
  /** It has ended while it was leased, so it is removed when it comes back. */
  over: 'expired' | 'hangUp' | undefined

  constructor(facts: EntryFacts) {
    this.facts = facts
    this.kinds = facts.descriptors.map(({ kind }) => kind)
    this.amount = amountOf(facts)
  }

  get deadline(): number | undefined {
    return this.facts.deadline
  }

  /** Without descriptors and value. */
  shown(): StoredEntry {
    const { entry, name, owner, value, uid, pid, since, deadline, poll } = this.facts
    return {
      entry,
      name,
      owner,
      kinds: this.kinds,
      bytes: value?.length ?? 0,
      uid,
      pid,
      since,
      ...(deadline === undefined ? {} : { ttl: Math.max(0, Math.ceil(deadline - now())) }),
      poll,
      keep: this.keepers.size > 0,
      ...(this.lease === undefined ? {} : { leased: this.lease.pid })
    }
  }

  /** With duplicates of its descriptors, which the caller owns. Throws the system's error, and makes none then. */
  given(): Given {
    const { descriptors, value } = this.facts
    const copies: Descriptor[] = []
    try {
      for (const descriptor of descriptors) copies.push(descriptor.dup())
    } catch (error) {
      for (const copy of copies) copy.close()
      throw error
    }
    return { ...this.shown(), descriptors: copies, ...(value === undefined ? {} : { value }) }
  }
}

/** What it costs of a quota. */
export function amountOf({
  name,
  descriptors,
  value
}: {
  readonly name: string
  readonly descriptors: readonly unknown[]
  readonly value: Uint8Array | undefined
}): Amount {
  return { descriptors: descriptors.length, names: 1, bytes: name.length + (value?.length ?? 0) }
}
