/** What the two sides of a takeover say over their channel, and the check of what comes. docs/takeover-protocol.md is the page for other languages. */
import { PassfdError } from '../base/errors.ts'
import { version } from '../base/version.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import type { OwnUnit } from '../os/unit.ts'

/** The version of the takeover protocol. Both sides use the lower one of the two. */
export const VERSION = 1
/** Features that this release knows, for the other side's `needs`. */
export const FEATURES: readonly string[] = []
/** Listeners in one part of an offer: a message has at most 253 descriptors, and some of them have another use. */
export const PART = 240
/** Names of listeners in one message. */
const MAX_NAMES = 4096
/** The longest name, in UTF-16 units. */
const MAX_NAME = 255

/** A program's description of itself, for people. */
export interface Program {
  pid: number
  passfd: string
  runtime: string
}

export function thisProgram(): Program {
  return { pid: process.pid, passfd: version, runtime: `${process.release.name} ${process.version}` }
}

export interface Begin {
  do: 'begin'
  takeover: number
  needs: string[]
  program: Program
  /** Names of the listeners that the candidate serves. Absent: all, unless `drops` says otherwise later. */
  wants?: string[]
  /** Its unit of systemd. Absent: the owner looks for itself. */
  service?: OwnUnit
  life: Descriptor
}

/** One lane of a listener, with a copy of it. */
export interface Offered {
  name: string
  lane: number
  kind: string
  /** How it was bound: the fields of the spec, and of a socket file `dev` and `ino`. */
  options: Record<string, unknown>
  listener: Descriptor
}

export interface Part {
  listeners: Offered[]
  /** With the last part. */
  decision?: Descriptor
}

export interface Offer extends Part {
  takeover: number
  needs: string[]
  program: Program
  generation: number
  /** How many listeners all parts have. */
  total: number
  /** The listening socket behind the takeover path. Absent between two workers. */
  path?: Descriptor
  life: Descriptor
}

/** The number of parts of the state, and of the bytes and descriptors in all of them. */
export interface Frozen {
  parts: number
  bytes: number
  descriptors: number
}

export interface StatePart {
  bytes: Uint8Array
  descriptors: Descriptor[]
}

export function closeParts(parts: Iterable<StatePart>): void {
  for (const { descriptors } of parts) for (const descriptor of descriptors) if (!descriptor.closed) descriptor.close()
}

/** The answer of the owner at a takeover path: see `takeoverStatus()`. */
export interface Status {
  /** The process that serves, as it describes itself. */
  owner: Program
  /** 1 for the first process at the path, one more for each successor. */
  generation: number
  /** When the owner began to serve, in ms since the epoch. */
  since: number
  /** The pid of the candidate whose turn it is: it boots, and may become the successor. Missing: there is none. */
  candidate?: number
  /** The pids of the candidates that wait for their turn, in its order. */
  waiting: number[]
  /** The superseded processes that still have connections, the newest first. */
  chain: Draining[]
}

/** A superseded process that still has connections. */
export interface Draining {
  pid: number
  connections: number
}

export type Asked =
  | Begin
  | { do: 'more'; from: number }
  | { do: 'drops'; names: string[] }
  | { do: 'freeze'; accepts?: unknown }
  | { do: 'state'; part: number }
  | { do: 'status' }

export type Told =
  | { do: 'wait'; behind: number }
  | { do: 'left'; connections: number; chain: Draining[] }
  /** `slot`: the connections are idle, and this supervisor's worker in that slot has served them (0: a seat). */
  | { do: 'connections'; name: string; connections: Descriptor[]; slot?: number }
  /** Between supervisors: the end of a socketpair to the predecessor's worker in `slot`, which gives its state. */
  | { do: 'worker'; slot: number; end: Descriptor }

/** Reads a request of a candidate. @throws ERR_PASSFD_TAKEOVER_PROTOCOL. */
export function readAsked(value: unknown): Asked {
  const asked = record(value, 'a request')
  switch (asked.do) {
    case 'begin':
      return {
        do: 'begin',
        takeover: integer(asked, 'takeover', 1),
        needs: names(asked, 'needs'),
        program: readProgram(asked.program),
        ...(asked.wants === undefined ? {} : { wants: names(asked, 'wants') }),
        ...(asked.service === undefined ? {} : { service: readService(asked.service) }),
        life: descriptor(asked, 'life')
      }
    case 'more':
      return { do: 'more', from: integer(asked, 'from', 0) }
    case 'drops':
      return { do: 'drops', names: names(asked, 'names') }
    case 'freeze':
      return { do: 'freeze', accepts: asked.accepts }
    case 'state':
      return { do: 'state', part: integer(asked, 'part', 0) }
    case 'status':
      return { do: 'status' }
    default:
      return wrong('do is none of begin, more, drops, freeze, state and status')
  }
}

/** Reads the answer to `status`. Owners of earlier releases, and of other languages, may not say who waits. @throws ERR_PASSFD_TAKEOVER_PROTOCOL. */
export function readStatus(value: unknown): Status {
  const status = record(value, 'the answer to status')
  const { candidate, waiting = [] } = status
  if (!Array.isArray(waiting)) return wrong('waiting is no array')
  return {
    owner: readProgram(status.owner),
    generation: integer(status, 'generation', 1),
    since: integer(status, 'since', 0),
    ...(candidate === undefined ? {} : { candidate: integer(status, 'candidate', 0) }),
    waiting: waiting.map(pid => integer({ pid }, 'pid', 0)),
    chain: readChain(status.chain)
  }
}

/** Leaves out what is none, because it is for people only. */
export function readChain(value: unknown): Draining[] {
  if (!Array.isArray(value)) return []
  return value
    .filter(one => Number.isSafeInteger(one?.pid) && Number.isSafeInteger(one?.connections))
    .map(({ pid, connections }) => ({ pid, connections }))
}

/** Reads the first part of an offer. @throws ERR_PASSFD_TAKEOVER_PROTOCOL. */
export function readOffer(value: unknown): Offer {
  const offer = record(value, 'an offer')
  return {
    ...readPart(value),
    takeover: integer(offer, 'takeover', 1),
    needs: names(offer, 'needs'),
    program: readProgram(offer.program),
    generation: integer(offer, 'generation', 1),
    total: integer(offer, 'total', 0),
    ...(offer.path === undefined ? {} : { path: descriptor(offer, 'path') }),
    life: descriptor(offer, 'life')
  }
}

export function readPart(value: unknown): Part {
  const { listeners, decision } = record(value, 'a part of an offer')
  if (!Array.isArray(listeners)) return wrong('listeners is no array')
  return {
    listeners: listeners.map(readOffered),
    ...(decision === undefined ? {} : { decision: descriptor({ decision }, 'decision') })
  }
}

export function readFrozen(value: unknown): Frozen {
  const frozen = record(value, 'the answer to freeze')
  return {
    parts: integer(frozen, 'parts', 1),
    bytes: integer(frozen, 'bytes', 0),
    descriptors: integer(frozen, 'descriptors', 0)
  }
}

export function readStatePart(value: unknown): StatePart {
  const { bytes, descriptors } = record(value, 'a part of the state')
  if (!(bytes instanceof Uint8Array)) return wrong('bytes is not binary')
  if (!Array.isArray(descriptors)) return wrong('descriptors is no array')
  return { bytes, descriptors: descriptors.map(one => descriptor({ one }, 'one')) }
}

function readService(value: unknown): OwnUnit {
  const { unit, own } = record(value, 'service')
  if (typeof own !== 'boolean') return wrong('own is no boolean')
  if (unit === undefined) return { own }
  return typeof unit === 'string' ? { unit, own } : wrong('unit is no string')
}

/** The two sides have a version that both speak, and each knows what the other one needs. @throws ERR_PASSFD_TAKEOVER_VERSION. */
export function checkVersion({ takeover, needs, program }: Pick<Begin, 'takeover' | 'needs' | 'program'>): void {
  const unknown = needs.filter(feature => !FEATURES.includes(feature))
  if (takeover < 1 || unknown.length > 0)
    throw new PassfdError('TAKEOVER_VERSION', {
      pid: program.pid,
      detail: `it needs ${unknown.join(', ') || `version ${takeover}`}, and this process has version ${VERSION} of the takeover protocol`
    })
}

function readOffered(value: unknown): Offered {
  const offered = record(value, 'a listener')
  const { kind, options = {} } = offered
  if (typeof kind !== 'string') return wrong('the kind of a listener is no text')
  return {
    name: name(offered.name),
    lane: integer(offered, 'lane', 0),
    kind,
    options: record(options, "a listener's options"),
    listener: descriptor(offered, 'listener')
  }
}

function readProgram(value: unknown): Program {
  const { pid, passfd, runtime } = record(value, 'program')
  return { pid: integer({ pid }, 'pid', 1), passfd: String(passfd ?? ''), runtime: String(runtime ?? '') }
}

function record(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return wrong(`${what} is no map`)
  return value as Record<string, unknown>
}

function integer(of: Record<string, unknown>, field: string, least: number): number {
  const { [field]: value } = of
  if (!Number.isSafeInteger(value) || (value as number) < least) return wrong(`${field} is no integer from ${least} on`)
  return value as number
}

function name(value: unknown): string {
  if (typeof value !== 'string' || value === '' || value.length > MAX_NAME)
    return wrong('a name is not a text of 1 to 255 characters')
  return value
}

function names(of: Record<string, unknown>, field: string): string[] {
  const { [field]: value = [] } = of
  if (!Array.isArray(value) || value.length > MAX_NAMES)
    return wrong(`${field} is no array of at most ${MAX_NAMES} names`)
  return value.map(name)
}

function descriptor(of: Record<string, unknown>, field: string): Descriptor {
  const { [field]: value } = of
  return value instanceof Descriptor ? value : wrong(`${field} is no descriptor`)
}

function wrong(detail: string): never {
  throw new PassfdError('TAKEOVER_PROTOCOL', { detail })
}
