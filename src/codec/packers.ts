/** How values are written that are no plain objects, arrays or primitives: descriptors, binary values, collections, dates. */
import { bytesOf, isArrayBuffer, isDate, isMap, isProxy, isSet, typedArrayName } from '../base/brand.ts'
import type { PassfdError } from '../base/errors.ts'
import { MAX_DEPTH } from '../base/kernel-limits.ts'
import { Connection, descriptorOf, isConnection } from '../connection/connection.ts'
import { Descriptor, isDescriptor } from '../descriptor/descriptor.ts'
import { call, collect, leaveHole } from './codec-in-progress.ts'
import { checkDistinct, checkPlainKeys, plainForm } from './encodable.ts'
import { ARRAY_BUFFER, CONNECTION_TYPE, codeOfView, DESCRIPTOR_TYPE, WIDE_INDEX } from './extension-types.ts'
import { addToChains } from './key-chains.ts'
import { type Allocate, type Pack, state, type ValuePacker } from './msgpackr/pack.js'
import { ConnectionPlaceholder, Placeholder } from './placeholders.ts'
import { quoted, Refusal, tooDeep, within } from './refusal.ts'

/** Binary values from this size on are not copied into the body: the kernel takes them from where they are. */
export const BY_REFERENCE = 65536

/** How an object is written that is no array and not of Object.prototype; undefined: by its keys. Throws a Refusal. */
export function packerOf(value: object, prototype: object | null): (ValuePacker & { form?: unknown }) | undefined {
  if (ArrayBuffer.isView(value)) return packView
  if (isDescriptor(value)) return packDescriptor
  if (isConnection(value)) return packConnection
  // The prototype decides only what to check first, because each check is a call into C++
  if (prototype === Date.prototype && isDate(value)) return packDate
  if (isMap(value)) return packMap
  if (isSet(value)) return packSet
  if (isArrayBuffer(value)) return packArrayBuffer
  if (isDate(value)) return packDate
  if (value instanceof ConnectionPlaceholder) return packConnectionPlaceholder
  if (value instanceof Placeholder) return packPlaceholder
  if (isProxy(value) && (value instanceof Descriptor || value instanceof Connection))
    throw new Refusal('is a Proxy of a Descriptor or Connection: send what it stands for')
  const form = plainForm(value, prototype)
  return form === value ? undefined : packerForForm(form)
}

/** A packer for a value whose toJSON() gave `form`. */
function packerForForm(form: unknown): ValuePacker & { form?: unknown } {
  const packer = (value: object, _: Allocate, pack: Pack): void => {
    if (++state.depth > MAX_DEPTH) throw tooDeep() // each may give another object with a toJSON()
    try {
      pack(form)
    } catch (error) {
      throw within(error, value, { text: '.toJSON()' })
    }
    state.depth--
  }
  packer.form = form
  return packer
}

function packDescriptor(descriptor: Descriptor, allocate: Allocate): void {
  packIndex(collect(descriptor), allocate)
}

function packConnection(connection: Connection, allocate: Allocate): void {
  packHead(collect(ofConnection(connection)), connection.head, allocate)
}

function ofConnection(connection: Connection): Descriptor {
  try {
    return descriptorOf(connection)
  } catch (error) {
    throw new Refusal('', undefined, error as PassfdError)
  }
}

function packConnectionPlaceholder({ index, head }: ConnectionPlaceholder, allocate: Allocate): void {
  packHead(index, head, allocate)
}

function packPlaceholder({ index }: Placeholder, allocate: Allocate): void {
  packIndex(index, allocate)
}

function packIndex(index: number, allocate: Allocate): void {
  if (call.wide !== undefined) {
    const { target, targetView, position } = allocate(2 + WIDE_INDEX)
    target[position] = 0xd6
    target[position + 1] = DESCRIPTOR_TYPE
    targetView.setUint32(position + 2, index, true)
    return
  }
  const { target, position } = allocate(3)
  packIndexAt(index, target, position)
}

export function packIndexAt(index: number, into: Uint8Array, at: number): void {
  into[at] = 0xd4
  into[at + 1] = DESCRIPTOR_TYPE
  into[at + 2] = index
}

/** An extension of the index and the bytes; of one byte it is what a descriptor's looks like. */
function packHead(index: number, head: Uint8Array, allocate: Allocate): void {
  const size = call.wide === undefined ? 1 : WIDE_INDEX
  const length = head.length + size
  const prefix = length === 1 ? 1 : length < 0x100 ? 2 : length < 0x10000 ? 3 : 5
  const header = prefix + 1 + size
  const byReference = head.length >= BY_REFERENCE
  const { target, targetView, position } = allocate(byReference ? header : header + head.length)
  target[position] = prefix === 1 ? 0xd4 : prefix === 2 ? 0xc7 : prefix === 3 ? 0xc8 : 0xc9
  if (prefix === 2) target[position + 1] = length
  else if (prefix === 3) targetView.setUint16(position + 1, length)
  else if (prefix === 5) targetView.setUint32(position + 1, length)
  target[position + prefix] = CONNECTION_TYPE
  if (size === 1) target[position + prefix + 1] = index
  else targetView.setUint32(position + prefix + 1, index, true)
  if (byReference) leaveHole(target, position + header, head)
  else target.set(head, position + header)
}

/** More than a msgpack header can express. */
const TOO_LONG = 0xffffffff

/** A typed array or DataView: bin for a Buffer (and everything towards a peer without records), else msgpackr's extension 0x74. */
function packView(view: ArrayBufferView, allocate: Allocate, _: Pack, rich: boolean): void {
  const name = typedArrayName(view)
  const code = codeOfView(name)
  if (code === undefined) throw new Refusal(`is a ${name}, which has no form in a message: send another typed array`)
  const bytes = memoryOf(view)
  const shrinks = (bytes.buffer as { resizable?: boolean }).resizable === true
  packBytes(bytes, rich && !(view instanceof Buffer) ? code : undefined, !shrinks, allocate)
}

function packArrayBuffer(buffer: ArrayBuffer, allocate: Allocate, _: Pack, rich: boolean): void {
  packBytes(memoryOf(buffer), rich ? ARRAY_BUFFER : undefined, false, allocate)
}

function memoryOf(value: ArrayBufferView | ArrayBuffer): Uint8Array {
  try {
    return bytesOf(value)
  } catch {
    throw new Refusal('has lost its memory: its ArrayBuffer was transferred to another owner, or made too short for it')
  }
}

/** `code`: of the extension 0x74; without it bin. If `mayStay`, long bytes are not copied. */
function packBytes(bytes: Uint8Array, code: number | undefined, mayStay: boolean, allocate: Allocate): void {
  const { byteLength } = bytes
  const typed = code !== undefined
  const length = byteLength + (typed ? 1 : 0)
  if (length > TOO_LONG) throw new Refusal('is longer than 4 GiB')
  const prefix = length < 0x100 ? 2 : length < 0x10000 ? 3 : 5
  const header = prefix + (typed ? 2 : 0)
  const stays = mayStay && byteLength >= BY_REFERENCE
  const { target: into, targetView, position } = allocate(stays ? header : header + byteLength)
  into[position] = (typed ? 0xc7 : 0xc4) + (prefix === 2 ? 0 : prefix === 3 ? 1 : 2)
  if (prefix === 2) into[position + 1] = length
  else if (prefix === 3) targetView.setUint16(position + 1, length)
  else targetView.setUint32(position + 1, length)
  if (typed) {
    into[position + prefix] = 0x74
    into[position + prefix + 1] = code
  }
  if (stays) leaveHole(into, position + header, bytes)
  else into.set(bytes, position + header)
}

const eachEntry = Map.prototype.forEach
const eachItem = Set.prototype.forEach

/** Writes the present entries, as `structuredClone` does, even if getters in them add or remove entries. */
function packMap(map: Map<unknown, unknown>, allocate: Allocate, pack: Pack, rich: boolean): void {
  const keys: unknown[] = []
  const values: unknown[] = []
  eachEntry.call(map, (value, key) => {
    keys.push(key)
    values.push(value)
  })
  if (++state.depth > MAX_DEPTH) throw tooDeep()
  if (!rich) checkPlainKeys(keys)
  packHeader(keys.length, 0x80, 0xde, allocate)
  let at = 0
  let inKey = true
  let became = false
  try {
    for (; at < keys.length; at++) {
      inKey = true
      became = packAsSent(keys, at, pack) || became
      inKey = false
      pack(values[at])
    }
  } catch (error) {
    const key = keys[at]
    const named = !inKey && (typeof key === 'string' || typeof key === 'number')
    const text = named ? `.get(${typeof key === 'string' ? quoted(key) : key})` : `.entries()[${at}][${inKey ? 0 : 1}]`
    throw within(error, map, { text })
  }
  if (rich) addToChains(keys) // as they were sent
  if (rich && (became || state.illFormed)) checkDistinct(keys)
  state.depth--
}

function packSet(set: Set<unknown>, allocate: Allocate, pack: Pack, rich: boolean): void {
  const items: unknown[] = []
  eachItem.call(set, item => items.push(item))
  if (++state.depth > MAX_DEPTH) throw tooDeep()
  if (rich) {
    const { target, position } = allocate(3)
    target[position] = 0xd4
    target[position + 1] = 0x73
    target[position + 2] = 0
  }
  packHeader(items.length, 0x90, 0xdc, allocate)
  let at = 0
  let became = false
  try {
    for (; at < items.length; at++) {
      if (rich) became = packAsSent(items, at, pack) || became
      else pack(items[at])
    }
  } catch (error) {
    throw within(error, set, { text: `.values()[${at}]` })
  }
  if (rich) addToChains(items) // as they were sent
  if (rich && (became || state.illFormed)) checkDistinct(items)
  state.depth--
}

/** Packs an item of a Set or a key of a Map. True if its toJSON() has made something else of it, which may be equal to another one. */
function packAsSent(items: unknown[], at: number, pack: Pack): boolean {
  const item = items[at]
  // Node makes a long string well-formed, without a report
  if (typeof item === 'string' && item.length >= 0x40 && !item.isWellFormed()) state.illFormed = true
  if (typeof item === 'object' && item !== null && !Array.isArray(item)) {
    const prototype = Object.getPrototypeOf(item)
    if (prototype !== Object.prototype) {
      const packer = packerOf(item, prototype)
      if (packer !== undefined && 'form' in packer) items[at] = packer.form
    }
  }
  pack(items[at])
  return items[at] !== item
}

/** Of an array or a map: the first byte of the short form, and of the form with 16 bits, behind which that with 32 stands. */
function packHeader(length: number, short: number, long: number, allocate: Allocate): void {
  const size = length < 0x10 ? 1 : length < 0x10000 ? 3 : 5
  const { target, targetView, position } = allocate(size)
  if (size === 1) target[position] = short | length
  else if (size === 3) {
    target[position] = long
    targetView.setUint16(position + 1, length)
  } else {
    target[position] = long + 1
    targetView.setUint32(position + 1, length)
  }
}

const timeOf = Date.prototype.getTime

/** The shortest of the standard's three forms. */
function packDate(date: Date, allocate: Allocate, _: Pack, rich: boolean): void {
  const time = timeOf.call(date)
  if (Number.isNaN(time)) {
    if (!rich) throw new Refusal('is an invalid Date, which has no form for a peer without records: send null')
    const { target, position } = allocate(3)
    target[position] = 0xd4
    target[position + 1] = target[position + 2] = 0xff
    return
  }
  const seconds = Math.floor(time / 1000)
  const nanoseconds = (time - seconds * 1000) * 1_000_000
  if (seconds < 0 || seconds > 0xffffffff) {
    const { target, targetView, position } = allocate(15)
    target[position] = 0xc7
    target[position + 1] = 12
    target[position + 2] = 0xff
    targetView.setUint32(position + 3, nanoseconds)
    targetView.setBigInt64(position + 7, BigInt(seconds))
    return
  }
  const { target, targetView, position } = allocate(nanoseconds === 0 ? 6 : 10)
  target[position] = nanoseconds === 0 ? 0xd6 : 0xd7
  target[position + 1] = 0xff
  if (nanoseconds > 0) targetView.setUint32(position + 2, nanoseconds * 4)
  targetView.setUint32(position + (nanoseconds === 0 ? 2 : 6), seconds)
}
