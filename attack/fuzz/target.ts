/** What a target is, and what several of them need. */
import { isDeepStrictEqual } from 'node:util'
import { addExtension, C1, Packr, Unpackr } from 'msgpackr'
import { Descriptor, own } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'

export interface Target {
  /** The sources whose coverage shows that an input is new. */
  readonly sources: RegExp
  /** Where to begin. */
  seeds(): Buffer[]
  /** Throws if an input does what it must not do. */
  attempt(input: Buffer): void
}

export type Targets = Record<string, Target>

/** Runs what may fail by an error of passfd's with one of these codes only. Undefined: it has failed. */
export function allowed<Result>(codes: readonly string[], work: () => Result): Result | undefined {
  try {
    return work()
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !codes.includes(code)) throw error
    return undefined
  }
}

export function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(what)
}

/** Node 20 takes two invalid Dates for different. And views of the same bytes may lie elsewhere in their buffers. */
export function isSame(one: unknown, other: unknown): boolean {
  return isDeepStrictEqual(one, other) || isDeepStrictEqual(plain(one), plain(other))
}

/** The value with a Date as its time and a DataView as its bytes, and whatever has parts as a list. */
function plain(value: unknown): unknown {
  if (value instanceof Date) return ['Date', value.getTime()]
  if (value instanceof DataView)
    return ['DataView', Buffer.from(value.buffer as ArrayBuffer, value.byteOffset, value.byteLength)]
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || value instanceof ArrayBuffer)
    return value
  if (value instanceof Map) return ['Map', ...[...value].map(entry => entry.map(plain))]
  if (value instanceof Set) return ['Set', ...[...value].map(plain)]
  if (Array.isArray(value)) return ['Array', ...value.map(plain)]
  if (Object.getPrototypeOf(value) !== Object.prototype) return value
  return ['Object', ...Object.entries(value).map(([name, one]) => [name, plain(one)])]
}

function collect(value: unknown, into: Set<unknown>): void {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || into.has(value)) return
  into.add(value)
  if (value instanceof Map) for (const entry of value) collect(entry, into)
  else if (value instanceof Set) for (const one of value) collect(one, into)
  else if (!(value instanceof Descriptor)) for (const one of Object.values(value)) collect(one, into)
}

export const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0

/**
 * Stands for a descriptor in a value of an input. It has no number: readers look only whether it is one. A reader may also look for a field of a
 * map in it, so it answers as an open descriptor does.
 */
export const DESCRIPTOR: Descriptor = Object.create(Descriptor.prototype, {
  kind: { value: 'other' },
  access: { value: 'read-write' },
  flags: { value: {} },
  closed: { value: false }
})
let make = (): Descriptor => DESCRIPTOR
addExtension({ Class: Descriptor as never, type: 70, pack: () => Buffer.of(0), unpack: () => make() })

/**
 * As `valueIn()`, with open descriptors in it, for readers that close what they refuse. `read` returns those that it gives to its caller; no other
 * may be open after it.
 */
export function withOpen(input: Buffer, read: (value: unknown) => readonly Descriptor[]): void {
  const made: Descriptor[] = []
  make = () => {
    const descriptor = own(native.dup(2))
    made.push(descriptor)
    return descriptor
  }
  try {
    const found = valueIn(input)
    if (found === undefined) return
    // A name that stands twice in a map has the last of its values only
    const there = new Set<unknown>()
    collect(found.value, there)
    const given = read(found.value)
    must(!made.some(one => there.has(one) && !one.closed && !given.includes(one)), 'a descriptor is left open')
  } finally {
    make = () => DESCRIPTOR
    for (const descriptor of made) descriptor[Symbol.dispose]()
  }
}

const packr = new Packr({ useRecords: false })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true })

export function pack(value: unknown): Buffer {
  return Buffer.from(packr.pack(value))
}

export function packed(...values: unknown[]): Buffer[] {
  return values.map(pack)
}

export function texts(...all: string[]): Buffer[] {
  return all.map(text => Buffer.from(text))
}

/** The value in an input of MessagePack; none if another library can't read it either. */
export function valueIn(input: Buffer): { value: unknown } | undefined {
  try {
    const value = unpackr.unpack(input)
    return input.includes(0xc1) && holdsC1(value) ? undefined : { value }
  } catch {
    return undefined
  }
}

/** What that library makes of the byte that msgpack does not use: an object of its own. */
function holdsC1(value: unknown): boolean {
  if (value === C1) return true
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && Object.values(value).some(holdsC1)
}

/** Lines NAME=value, as the environment of a process. */
export function environmentIn(input: Buffer): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = {}
  for (const line of input.toString('latin1').split('\n')) {
    const at = line.indexOf('=')
    if (at > 0) env[line.slice(0, at)] = line.slice(at + 1).replaceAll('\0', '')
  }
  return env
}
