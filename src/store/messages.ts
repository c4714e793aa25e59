/** What a client and a store say to each other, and the check of what clients say. docs/store-protocol.md is the page for other languages. */
import { invalid } from '../base/check.ts'
import { type ErrorKey, PassfdError, type RemoteError } from '../base/errors.ts'
import { closeUnused } from '../channel/find-descriptors.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import type { Kind } from '../descriptor/kind.ts'
import { isName, isPattern } from './names.ts'

export const VERSION = 1
/** The longest value of an entry, in bytes. */
export const MAX_VALUE = 65_536
/** The most descriptors of an entry: SCM_MAX_FD (unix(7)). */
export const MAX_DESCRIPTORS = 253
/** Bytes of a client's number, and of an epoch. */
const ID = 16
/** Numbers of kept entries in one request. */
export const MAX_KEPT = 1024
/** The longest request, in bytes: a put of the longest value and the most descriptors. */
export const MAX_REQUEST = 81_920
/** The most values in a request: see hasMoreValues(). */
export const MAX_VALUES = 2048
/** More fields than any request has. */
const MANY_FIELDS = 16
const MAX_UID = 0xfffffffe

/** An entry, as `list` and `watch` show it. */
export interface StoredEntry {
  /** A number that the store gives to one entry only. */
  readonly entry: number
  readonly name: string
  /** The user (uid) whose name it is. */
  readonly owner: number
  /** The kind of each descriptor. */
  readonly kinds: readonly Kind[]
  /** The bytes of its value. */
  readonly bytes: number
  /** Who has put it. */
  readonly uid: number
  readonly pid: number
  /** When, in ms since 1970. */
  readonly since: number
  /** How many ms it has left. Missing: it does not expire. */
  readonly ttl?: number
  /** The store removes it when the other end hangs up. */
  readonly poll: boolean
  /** The client that has put it has copies, and puts them again if the store is lost. */
  readonly keep: boolean
  /** The process that has taken it and has not kept it yet. */
  readonly leased?: number
}

/** What happened to an entry. */
export type EntryEvent = 'put' | 'leased' | 'returned' | 'kept' | 'removed' | 'replaced' | 'expired' | 'hangUp'

interface Numbered {
  id: number | undefined
  seen: number
}

interface Named {
  name: string
  owner: number | undefined
}

export type Put = { do: 'put' } & Numbered &
  Named & {
    descriptors: readonly Descriptor[]
    value: Uint8Array | undefined
    ttl: number | undefined
    poll: boolean | undefined
    keep: boolean
    replace: boolean
  }

export type Request =
  | { do: 'hello'; store: number; client: string; kept: readonly number[] }
  | { do: 'kept'; entries: readonly number[] }
  | Put
  | ({ do: 'take' | 'remove' } & Numbered & Named)
  | ({ do: 'copy' } & Named)
  | ({ do: 'keep' | 'release'; entry: number } & Numbered)
  | { do: 'list'; names: string | undefined; owner: number | undefined; after: number }
  | { do: 'watch'; watch: number; names: string | undefined; owner: number | undefined }
  | { do: 'unwatch'; watch: number }

/** An entry with what it holds: the answer to `take` and `copy`. */
export interface Given extends StoredEntry {
  readonly descriptors: readonly Descriptor[]
  readonly value?: Uint8Array
}

export type Told =
  | { watch: number; event: 'list'; entries: readonly StoredEntry[]; more: boolean }
  | { watch: number; event: EntryEvent; entry: StoredEntry }
  | { event: 'gone'; entry: number }

const LISTS = ['descriptors', 'kept', 'entries']

/** Whether a request has more in it than the store reads: it may have been long to decode. */
export function isBloated(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const fields = Object.entries(value)
  return (
    fields.length > MANY_FIELDS ||
    fields.some(
      ([name, one]) => typeof one === 'object' && one !== null && !(one instanceof Uint8Array) && !LISTS.includes(name)
    )
  )
}

/** Reads a client's request. Throws ERR_PASSFD_STORE_REQUEST. */
export function readRequest(value: unknown): Request {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return wrong('It is no map')
  const given = value as Record<string, unknown>
  switch (given.do) {
    case 'hello':
      return {
        do: 'hello',
        store: integer(given, 'store', 1),
        client: clientOf(given.client),
        kept: keptOf(given, 'kept')
      }
    case 'kept':
      return { do: 'kept', entries: keptOf(given, 'entries') }
    case 'put':
      return readPut(given)
    case 'take':
    case 'remove':
      return { do: given.do, ...numbered(given), ...named(given) }
    case 'copy':
      return { do: 'copy', ...named(given) }
    case 'keep':
    case 'release':
      return { do: given.do, ...numbered(given), entry: integer(given, 'entry', 1) }
    case 'list':
      return { do: 'list', ...selected(given), after: optional(given, 'after', 0) ?? 0 }
    case 'watch':
      return { do: 'watch', ...selected(given), watch: integer(given, 'watch', 0) }
    case 'unwatch':
      return { do: 'unwatch', watch: integer(given, 'watch', 0) }
    default:
      return wrong('do is none of hello, kept, put, take, keep, release, copy, remove, list, watch and unwatch')
  }
}

function readPut(given: Record<string, unknown>): Put {
  const { descriptors, value = null } = given
  const isList = Array.isArray(descriptors) && descriptors.every(one => one instanceof Descriptor)
  if (!isList || descriptors.length === 0 || descriptors.length > MAX_DESCRIPTORS)
    return wrong(`descriptors is no list of 1 to ${MAX_DESCRIPTORS} descriptors`)
  if (value !== null && !(value instanceof Uint8Array)) return wrong('value is not binary')
  if (value !== null && value.length > MAX_VALUE) {
    const data = { what: 'bytes of a value', limit: MAX_VALUE }
    throw new PassfdError('STORE_FULL', data, { data })
  }
  return {
    do: 'put',
    ...numbered(given),
    ...named(given),
    descriptors,
    value: value ?? undefined,
    ttl: optional(given, 'ttl', 1),
    poll: flag(given, 'poll'),
    keep: flag(given, 'keep') ?? false,
    replace: flag(given, 'replace') ?? false
  }
}

function numbered(given: Record<string, unknown>): Numbered {
  const id = optional(given, 'id', 1)
  const seen = optional(given, 'seen', 0) ?? 0
  if (id !== undefined && seen >= id) return wrong('seen is not below id')
  return { id, seen }
}

function named(given: Record<string, unknown>): Named {
  const { name } = given
  if (!isName(name)) return wrong("name has not 1 to 255 printable ASCII characters without ':' and '*'")
  return { name, owner: optional(given, 'owner', 0, MAX_UID) }
}

function selected(given: Record<string, unknown>): { names: string | undefined; owner: number | undefined } {
  const { names = null } = given
  if (names !== null && !isPattern(names)) return wrong("names is no name, and no beginning of names with '*'")
  return { names: names ?? undefined, owner: optional(given, 'owner', 0, MAX_UID) }
}

function clientOf(given: unknown): string {
  if (!(given instanceof Uint8Array) || given.length !== ID) return wrong(`client has not ${ID} bytes`)
  return Buffer.from(given).toString('hex')
}

function keptOf(given: Record<string, unknown>, name: string): readonly number[] {
  const kept = given[name] ?? []
  const isList = Array.isArray(kept) && kept.length <= MAX_KEPT && kept.every(one => Number.isSafeInteger(one))
  return isList ? kept : wrong(`${name} is no list of at most ${MAX_KEPT} numbers`)
}

function integer(given: Record<string, unknown>, name: string, least: number, most = Number.MAX_SAFE_INTEGER): number {
  const value = given[name]
  const isInteger = typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most
  return isInteger ? value : wrong(`${name} is no integer from ${least} to ${most}`)
}

function optional(given: Record<string, unknown>, name: string, least: number, most?: number): number | undefined {
  return (given[name] ?? undefined) === undefined ? undefined : integer(given, name, least, most)
}

function flag(given: Record<string, unknown>, name: string): boolean | undefined {
  const value = given[name] ?? undefined
  return value === undefined || typeof value === 'boolean' ? value : wrong(`${name} is neither true nor false`)
}

function wrong(detail: string): never {
  throw badRequest(detail)
}

/** ERR_PASSFD_STORE_REQUEST. */
export function badRequest(detail: string): PassfdError {
  return new PassfdError('STORE_REQUEST', { detail }, { data: { detail } })
}

const CODES = new Map<string, ErrorKey>(
  (['EXISTS', 'LEASED', 'LEASE_OVER', 'FULL', 'DENIED', 'POLL', 'MOVED', 'REQUEST'] as const).map(key => [
    `ERR_PASSFD_STORE_${key}`,
    `STORE_${key}`
  ])
)

/** Gives a store's error its code and its sentence here, so that programs need not read `remote`. */
export function asOwn(error: unknown): unknown {
  const { code, remote } = error as { code?: string; remote?: RemoteError }
  const key = code === 'ERR_PASSFD_REMOTE' ? CODES.get(remote?.code ?? '') : undefined
  if (key === undefined) return error
  const { data } = remote!
  const isMap = typeof data === 'object' && data !== null
  const details = isMap
    ? Object.entries(data).filter(([, one]) => typeof one === 'string' || typeof one === 'number')
    : []
  return new PassfdError(key, Object.fromEntries(details), { cause: error, remote: remote! })
}

/**
 * Reads an entry with its descriptors. The caller owns them. Closes further ones in the answer. Throws ERR_PASSFD_INVALID_ARGUMENT for an answer of
 * something that is no store, and closes all of them.
 */
export function readGiven(value: unknown): Given | undefined {
  if (value === null || value === undefined) return undefined
  const given = value as Given
  const isEntry =
    Number.isSafeInteger(given.entry) &&
    Array.isArray(given.descriptors) &&
    given.descriptors.every(one => one instanceof Descriptor)
  const isGiven = isEntry && given.descriptors.length > 0
  closeUnused(value, isGiven ? given.descriptors : [])
  if (!isGiven) throw invalid('the answer', 'an entry of a store', value)
  return given
}
