/** What a store gives to its successor at a takeover: docs/store-protocol.md. */
import { Descriptor } from '../descriptor/descriptor.ts'
import { ClientState } from './client-state.ts'
import type { Entry, EntryFacts, Lease } from './entry.ts'
import { badRequest, VERSION } from './messages.ts'
import { isName } from './names.ts'

export interface State {
  version: number
  epoch: Uint8Array
  next: number
  entries: (Omit<EntryFacts, 'value' | 'deadline'> & {
    value?: Uint8Array
    deadline?: number
    lease?: { client: Uint8Array; id?: number; pid: number }
  })[]
  clients: { client: Uint8Array; uid: number; seen: number; done: [id: number, result: unknown][] }[]
}

type GivenClient = State['clients'][number]

/** What a predecessor gives. Throws ERR_PASSFD_STORE_REQUEST for a state that this version does not understand: the predecessor goes on then. */
export function readState(given: State): State {
  const { version, epoch, next, entries, clients } = given ?? {}
  const isState =
    version === VERSION &&
    epoch instanceof Uint8Array &&
    Number.isSafeInteger(next) &&
    Array.isArray(entries) &&
    entries.every(isEntry) &&
    Array.isArray(clients) &&
    clients.every(isClient)
  if (!isState) throw badRequest(`the state of the predecessor is not of version ${VERSION}`)
  return given
}

function isEntry(given: State['entries'][number] | null): boolean {
  const { entry, name, owner, descriptors, value, deadline, lease } = given ?? {}
  return (
    Array.isArray(descriptors) &&
    descriptors.every(one => one instanceof Descriptor) &&
    isName(name) &&
    Number.isSafeInteger(entry) &&
    Number.isSafeInteger(owner) &&
    (value === undefined || value instanceof Uint8Array) &&
    (deadline === undefined || Number.isFinite(deadline)) &&
    (lease === undefined || (lease?.client instanceof Uint8Array && Number.isSafeInteger(lease.pid)))
  )
}

function isClient(given: GivenClient | null): boolean {
  const { client, done, seen, uid } = given ?? {}
  return (
    client instanceof Uint8Array &&
    Number.isSafeInteger(uid) &&
    Number.isSafeInteger(seen) &&
    Array.isArray(done) &&
    done.every(one => Array.isArray(one) && Number.isSafeInteger(one[0]))
  )
}

/** The descriptors stay the entry's. */
export function stateOfEntry({ facts, lease }: Entry): State['entries'][number] {
  const { value, deadline, ...rest } = facts
  const client = lease?.client.key
  return {
    ...rest,
    ...(value === undefined ? {} : { value }),
    ...(deadline === undefined ? {} : { deadline }),
    // A client that has not said who it is can't come back
    ...(client === undefined
      ? {}
      : {
          lease: {
            client: Buffer.from(client, 'hex'),
            ...(lease!.id === undefined ? {} : { id: lease!.id }),
            pid: lease!.pid
          }
        })
  }
}

export function stateOfClient({ key, uid, seen, done }: ClientState): GivenClient {
  return { client: Buffer.from(key!, 'hex'), uid, seen, done: done.map(({ id, result }) => [id, result]) }
}

export function clientOf({ client, uid, seen, done }: GivenClient): ClientState {
  const state = new ClientState(uid, keyOf(client))
  state.forget(seen)
  for (const [id, result] of done) state.note({ id, result })
  return state
}

/** The facts of an entry, and its lease if there is a client for it. The descriptors are moved in. */
export function entryOf(
  { lease, value, deadline, ...facts }: State['entries'][number],
  clients: ReadonlyMap<string, ClientState>
): EntryFacts & { lease: Lease | undefined } {
  const client = lease === undefined ? undefined : clients.get(keyOf(lease.client))
  return {
    ...facts,
    value,
    deadline,
    lease: client === undefined ? undefined : { client, id: lease!.id, pid: lease!.pid }
  }
}

function keyOf(client: Uint8Array): string {
  return Buffer.from(client).toString('hex')
}
