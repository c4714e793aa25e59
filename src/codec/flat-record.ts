/**
 * The commonest message is an object of a shape that was sent before, with short strings, numbers, truth values, null and Descriptors
 * in it. It is written here, byte for byte as msgpackr would, in about half of the time; everything else is left to msgpackr.
 */
import { isDescriptor } from '../descriptor/descriptor.ts'
import { collect } from './codec-in-progress.ts'
import { packIndexAt } from './packers.ts'
import { changed, within } from './refusal.ts'

/** A record structure that msgpackr has defined. */
export interface Shape {
  keys: readonly string[]
  /** The byte that stands for it. */
  readonly token: number
  /** How often in sequence there was something in it that is not written here. */
  misses: number
}

/** What `writeFlat` may need, in bytes: MAX_KEYS values of at most LONGEST. */
export const FLAT_ROOM = 2048
const MAX_KEYS = 24
const LONGEST = 65
const MAX_MISSES = 8

const hasOwn = Object.prototype.hasOwnProperty
const items: unknown[] = new Array(MAX_KEYS).fill(undefined)
const number = new DataView(new ArrayBuffer(8))

/** The shape for `keys`, if objects of it can be written here. */
export function shapeFor(keys: readonly string[], token: number): Shape | undefined {
  return keys.length > MAX_KEYS || keys.includes('__proto__') ? undefined : { keys, token, misses: 0 }
}

/** Whether a plain object has just these keys, in this order. */
export function fits(value: object, { keys, misses }: Shape): boolean {
  if (misses > MAX_MISSES) return false
  let count = 0
  for (const key in value) {
    if (key !== keys[count] || !hasOwn.call(value, key)) return false
    count++
  }
  return count === keys.length
}

/**
 * Writes an object that `fits` at `into[at]`, where there are 2 KiB. Returns the end. If something
 * in it is not written here, it returns a copy to be encoded instead, as getters must be called only once.
 */
export function writeFlat(value: object, shape: Shape, into: Buffer, at: number): number | object {
  into[at++] = shape.token
  const { keys } = shape
  let count = 0
  let key: string | undefined
  try {
    for (key in value) {
      if (key !== keys[count]) break // a getter has deleted one, or a Proxy lists others than before
      const item = (value as Record<string, unknown>)[key]
      items[count++] = item
      at = writeItem(item, into, at)
      if (at < 0) break
    }
  } catch (error) {
    throw within(error, value, key!)
  }
  if (at < 0) {
    shape.misses++
    const copy = copyOf(value, keys, count)
    items.fill(undefined, 0, count)
    return copy
  }
  if (count !== keys.length) throw changed()
  shape.misses = 0
  return at
}

/** The end, or -1. */
function writeItem(item: unknown, into: Buffer, at: number): number {
  switch (typeof item) {
    case 'string':
      return writeString(item, into, at)
    case 'number':
      return writeNumber(item, into, at)
    case 'boolean':
      into[at] = item ? 0xc3 : 0xc2
      return at + 1
    case 'object':
      if (item === null) {
        into[at] = 0xc0
        return at + 1
      }
      if (!isDescriptor(item)) return -1
      packIndexAt(collect(item), into, at)
      return at + 3
    default:
      return -1
  }
}

function writeString(item: string, into: Buffer, at: number): number {
  const { length } = item
  if (length > LONGEST - 2) return -1
  if (length < 0x20) into[at++] = 0xa0 | length
  else {
    into[at] = 0xd9
    into[at + 1] = length
    at += 2
  }
  for (let i = 0; i < length; i++) {
    const character = item.charCodeAt(i)
    if (character > 0x7f) return -1
    into[at++] = character
  }
  return at
}

function writeNumber(item: number, into: Buffer, at: number): number {
  if (item >>> 0 === item) {
    if (item < 0x40) {
      if (item === 0 && 1 / item < 0) return writeDouble(item, into, at)
      into[at] = item
      return at + 1
    }
    if (item < 0x100) {
      into[at] = 0xcc
      into[at + 1] = item
      return at + 2
    }
    if (item < 0x10000) {
      into[at] = 0xcd
      into[at + 1] = item >>> 8
      into[at + 2] = item
      return at + 3
    }
    return writeWord(0xce, item, into, at)
  }
  if (item >> 0 === item) {
    if (item >= -0x20) {
      into[at] = item
      return at + 1
    }
    if (item >= -0x80) {
      into[at] = 0xd0
      into[at + 1] = item
      return at + 2
    }
    if (item >= -0x8000) {
      into[at] = 0xd1
      into[at + 1] = item >>> 8
      into[at + 2] = item
      return at + 3
    }
    return writeWord(0xd2, item, into, at)
  }
  return writeDouble(item, into, at)
}

function writeDouble(item: number, into: Buffer, at: number): number {
  into[at] = 0xcb
  number.setFloat64(0, item)
  for (let i = 0; i < 8; i++) into[at + 1 + i] = number.getUint8(i)
  return at + 9
}

function writeWord(token: number, item: number, into: Buffer, at: number): number {
  into[at] = token
  into[at + 1] = item >>> 24
  into[at + 2] = item >>> 16
  into[at + 3] = item >>> 8
  into[at + 4] = item
  return at + 5
}

/** The first `count` were asked for already. */
function copyOf(value: object, keys: readonly string[], count: number): object {
  const copy: Record<string, unknown> = {}
  for (const [index, key] of keys.entries()) {
    if (index >= count && !hasOwn.call(value, key)) throw changed()
    try {
      copy[key] = index < count ? items[index] : (value as Record<string, unknown>)[key]
    } catch (error) {
      throw within(error, value, key)
    }
  }
  return copy
}
