/**
 * Values with descriptors as JSON. In JSON a descriptor is `{ "$descriptor": … }`: to be sent, its name; when it has arrived, an object that
 * describes it.
 */
import { descriptorOf, isConnection } from '../../connection/connection.ts'
import { Connection, Descriptor } from '../../index.ts'
import { CommandError, EXIT } from '../exit.ts'

export const MARK = '$descriptor'

/** A descriptor in a value that has arrived. */
export interface Arrived {
  /** Where it stands in the value: `log`, `files.0`. Different from all others of the value. Untrusted: it has any characters. */
  readonly name: string
  /** It is still the message's, or its Connection's. */
  readonly descriptor: Descriptor
  /** Of a Connection: bytes that were read from it already. */
  readonly head: Buffer | undefined
}

/** Finds the descriptors in a value, in the order in which they stand there. */
export function arrivedIn(value: unknown): Map<object, Arrived> {
  const found = new Map<object, Arrived>()
  const names = new Set<string>()
  const seen = new Set<object>()
  const visit = (one: unknown, path: readonly string[]): void => {
    if (typeof one !== 'object' || one === null || seen.has(one)) return
    seen.add(one)
    const held = heldBy(one)
    if (held === undefined) {
      for (const [key, inner] of entriesOf(one)) visit(inner, [...path, key])
      return
    }
    const name = differing(path.join('.') || 'value', names)
    names.add(name)
    found.set(one, { name, ...held })
  }
  visit(value, [])
  return found
}

function heldBy(one: object): Omit<Arrived, 'name'> | undefined {
  if (one instanceof Descriptor) return { descriptor: one, head: undefined }
  if (one instanceof Connection && isConnection(one))
    return { descriptor: descriptorOf(one), head: one.head.length === 0 ? undefined : one.head }
  return undefined
}

/** `name`, or with a number behind it if it is one of `names`. */
export function differing(name: string, names: ReadonlySet<string>): string {
  let [other, count] = [name, 1]
  while (names.has(other)) other = `${name}-${++count}`
  return other
}

function* entriesOf(one: object): Iterable<[key: string, inner: unknown]> {
  if (ArrayBuffer.isView(one)) return
  if (one instanceof Map) {
    let index = 0
    for (const [key, inner] of one) {
      yield [typeof key === 'string' ? key : String(index), inner]
      if (typeof key === 'object') yield [`${index}.key`, key]
      index++
    }
  } else if (one instanceof Set) yield* [...one].map((inner, index): [string, unknown] => [String(index), inner])
  else yield* Object.entries(one)
}

/**
 * Converts a value to what JSON can hold. `describe` gives what stands for a descriptor. JSON has no bytes, big integers, Maps, Sets and Dates:
 * they become objects with one key that begins with `$`.
 */
export function plain(
  value: unknown,
  arrived: ReadonlyMap<object, Arrived>,
  describe: (one: Arrived) => object
): unknown {
  const above = new Set<object>()
  const convert = (one: unknown): unknown => {
    if (typeof one === 'bigint') return { $bigint: String(one) }
    if (typeof one === 'number' && !Number.isFinite(one)) return { $number: String(one) }
    if (typeof one !== 'object' || one === null) return one ?? null
    const held = arrived.get(one)
    if (held !== undefined) return { [MARK]: { name: held.name, ...describe(held), ...headOf(held) } }
    if (above.has(one)) return { $circular: true }
    above.add(one)
    try {
      return convertObject(one)
    } finally {
      above.delete(one)
    }
  }
  const convertObject = (one: object): unknown => {
    if (ArrayBuffer.isView(one)) return { $bytes: base64(one) }
    if (one instanceof ArrayBuffer) return { $bytes: base64(new Uint8Array(one)) }
    if (one instanceof Date) return { $date: Number.isNaN(one.getTime()) ? null : one.toISOString() }
    if (one instanceof Map) return { $map: [...one].map(([key, inner]) => [convert(key), convert(inner)]) }
    if (one instanceof Set) return { $set: [...one].map(convert) }
    if (one instanceof Error) return { $error: { name: one.name, message: one.message } }
    if (one instanceof RegExp) return { $regexp: String(one) }
    if (Array.isArray(one)) return Array.from(one, convert)
    return Object.fromEntries(Object.entries(one).map(([key, inner]) => [key, convert(inner)]))
  }
  return convert(value)
}

function headOf({ head }: Arrived): { head?: string } {
  return head === undefined ? {} : { head: head.toString('base64') }
}

function base64(view: ArrayBufferView): string {
  return Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString('base64')
}

/**
 * Puts descriptors into a value that was read from JSON: each takes the place of `{ "$descriptor": "its name" }`. Those that have no such place
 * become properties of the value, under their names.
 */
export function withDescriptors(value: unknown, descriptors: ReadonlyMap<string, Descriptor>): unknown {
  const left = new Map(descriptors)
  const place = (one: unknown): unknown => {
    if (typeof one !== 'object' || one === null) return one
    if (Array.isArray(one)) return one.map(place)
    const keys = Object.keys(one)
    const { [MARK]: name } = one as { [MARK]?: unknown }
    if (keys.length === 1 && typeof name === 'string') return placed(name)
    return Object.fromEntries(Object.entries(one).map(([key, inner]) => [key, place(inner)]))
  }
  const placed = (name: string): Descriptor => {
    const descriptor = left.get(name)
    if (descriptor === undefined)
      throw usage(
        descriptors.has(name)
          ? `The value names the descriptor "${name}" twice`
          : `The value names a descriptor "${name}", and there is none`,
        'Give each name once, by --file, --fd or --listen'
      )
    left.delete(name)
    return descriptor
  }
  const whole = place(value)
  if (left.size === 0) return whole
  const isObject =
    typeof whole === 'object' && whole !== null && !Array.isArray(whole) && !(whole instanceof Descriptor)
  if (!isObject)
    throw usage(
      `The value has no place for the descriptor "${[...left.keys()][0]}"`,
      `Write {"${MARK}": "name"} where it belongs, or give an object`
    )
  const taken = [...left.keys()].find(name => Object.hasOwn(whole, name))
  if (taken !== undefined)
    throw usage(`The value has a property "${taken}" already`, 'Give the descriptor another name')
  return { ...whole, ...Object.fromEntries(left) }
}

function usage(what: string, remedy: string): CommandError {
  return new CommandError(EXIT.usage, what, remedy)
}
