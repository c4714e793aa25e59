/**
 * An instance of msgpackr of our own, with the extensions of the protocol and no others. Its pack target and extension table are
 * globals of its module: this way another user of msgpackr in the process can't pack into our buffers, nor can its
 * extensions change the wire. scripts/msgpackr.mjs makes it.
 */
import { bytesOf, isArrayBuffer, isDate, isMap, isProxy, isSet, typedArrayName } from '../base/brand.ts'
import { PassfdError } from '../base/errors.ts'
import { MAX_DEPTH, MAX_RIGHTS } from '../base/kernel-limits.ts'
import { Connection, connectionOf, descriptorOf, isConnection } from '../connection/connection.ts'
import { assertOpen, Descriptor, isDescriptor } from '../descriptor/descriptor.ts'
import { checkDistinct, checkKeys, checkPlainKeys, checkSlots, plainForm, unfit } from './encodable.ts'
import { HEADER } from './frame.ts'
import { chainsOf } from './key-chains.ts'
import { type Allocate, addExtension, type Pack, state, useHooks, type ValuePacker } from './msgpackr/pack.js'
import { changed, quoted, Refusal, tooDeep, within } from './refusal.ts'

export { Packr, RESERVE_START_SPACE, REUSE_BUFFER_MODE, type Structures, state, Unpackr } from './msgpackr/pack.js'

/** Binary values from this size on are not copied into the body: the kernel takes them from where they are. */
export const BY_REFERENCE = 65536

const DESCRIPTOR_TYPE = 0x46
const CONNECTION_TYPE = 0x43

export const NO_DESCRIPTORS: Descriptor[] = []
export const NO_HOLES: Hole[] = []
export const EMPTY = Buffer.alloc(0)

/** A place in the body, counted from its beginning in what was packed, where `bytes` belong that were not copied. */
export interface Hole {
  at: number
  bytes: Uint8Array
  /** Of `bytes` when it was encoded: they may be transferred to another owner before they have left. */
  length: number
}

/** Stands for a descriptor that has been moved already while its body is encoded anew. */
export class Place {
  readonly index: number
  constructor(index: number) {
    this.index = index
  }
}

/** The same for a connection, whose bytes stay in the body. */
class ConnectionPlace extends Place {
  readonly head: Buffer
  constructor(index: number, head: Buffer) {
    super(index)
    this.head = head
  }
}

export interface Limit {
  readonly bytes: number
  readonly whose: string
}
export const NO_LIMIT: Limit = { bytes: Number.POSITIVE_INFINITY, whose: '' }

/** What the extensions see of the call in progress; the codec sets it before each. */
export const call = {
  /** Encoding: where the frame begins in `target`, and what was collected. */
  frameStart: 0,
  target: EMPTY as Buffer,
  descriptors: NO_DESCRIPTORS,
  holes: NO_HOLES,
  /** How many bytes the holes had when they were left. */
  holeBytes: 0,
  /** The longest body that can be sent, and who says so. */
  limit: NO_LIMIT,
  /** Decoding: what came with the frame, and how much of it the body has used. */
  arrived: NO_DESCRIPTORS as readonly Descriptor[],
  used: 0,
  usedOnce: [] as boolean[],
  /** The body is flagged: further types are allowed. */
  records: false,
  /** Binary values may be views of the body. */
  owned: false
}

function addExtensions(): void {
  addExtension({ type: 0x74, unpack: unpackView })
  addExtension({ type: 0x73, read: readSet })
  addExtension({ type: 0x42, unpack: unpackBigInt })
  addExtension({ type: 0xff, unpack: unpackTimestamp })
  addExtension({ type: 0x00, unpack: Object.assign(() => onlyWithRecords(undefined), { noBuffer: true }) })
  for (const type of [0x62, 0x65, 0x69, 0x70, 0x78]) addExtension({ type, unpack: refuseType })
  addExtension({ type: CONNECTION_TYPE, unpack: unpackConnection })
  addExtension({ type: DESCRIPTOR_TYPE, unpack: unpackDescriptor })
}

/** How an object is written that is no array and not of Object.prototype; undefined: by its keys. Throws a Refusal. */
function packerOf(value: object, prototype: object | null): ValuePacker | undefined {
  if (ArrayBuffer.isView(value)) return packView
  if (isDescriptor(value)) return packDescriptor
  if (isConnection(value)) return packConnection
  // A prototype only says what to ask first: each answer is a call into C++
  if (prototype === Date.prototype && isDate(value)) return packDate
  if (isMap(value)) return packMap
  if (isSet(value)) return packSet
  if (isArrayBuffer(value)) return packArrayBuffer
  if (isDate(value)) return packDate
  if (value instanceof ConnectionPlace) return packConnectionPlace
  if (value instanceof Place) return packPlace
  if (isProxy(value) && (value instanceof Descriptor || value instanceof Connection))
    throw new Refusal('is a Proxy of a Descriptor or Connection: send what it stands for')
  const form = plainForm(value, prototype)
  if (form === value) return undefined
  json = form
  return packJson
}

/** What toJSON() gave for the value whose packer is called next. */
let json: unknown

function packJson(value: object, _: Allocate, pack: Pack): void {
  const given = json
  json = undefined
  if (++state.depth > MAX_DEPTH) throw tooDeep() // each may give another object with a toJSON()
  try {
    pack(given)
  } catch (error) {
    throw within(error, value, { text: '.toJSON()' })
  }
  state.depth--
}

function refuseType(): never {
  throw new PassfdError('UNDECODABLE', { detail: 'it holds an extension type that is not part of the protocol' })
}

function onlyWithRecords<T>(value: T): T {
  return call.records ? value : refuseType()
}

/** `items`: what follows, an array if our encoder has written it. */
function readSet(items: unknown): Set<unknown> {
  onlyWithRecords(items)
  if (!Array.isArray(items)) refuseType()
  addToChains(items)
  return new Set(items)
}

/** What a Map or Set with these keys costs the one that decodes it. */
function addToChains(keys: readonly unknown[]): void {
  const chains = chainsOf(keys.length)
  if (chains !== undefined) for (const key of keys) chains.add(key)
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

function packConnectionPlace({ index, head }: ConnectionPlace, allocate: Allocate): void {
  packHead(index, head, allocate)
}

/** Gives the descriptor its index. Throws a Refusal if it can't be sent, or not again. */
export function collect(descriptor: Descriptor): number {
  try {
    assertOpen(descriptor)
    if (call.descriptors.length === 0) {
      call.descriptors = [descriptor] // most often the only one: what is pushed into an empty array makes room for 17
      return 0
    }
    if (call.descriptors.includes(descriptor)) throw new PassfdError('DESCRIPTOR_REPEATED')
    if (call.descriptors.length > MAX_RIGHTS)
      throw new PassfdError('TOO_MANY_DESCRIPTORS', {
        count: `more than ${MAX_RIGHTS}`,
        whose: 'the protocol (SCM_MAX_FD, unix(7))',
        limit: MAX_RIGHTS
      })
  } catch (error) {
    throw new Refusal('', undefined, error as PassfdError)
  }
  return call.descriptors.push(descriptor) - 1
}

function packPlace({ index }: Place, allocate: Allocate): void {
  packIndex(index, allocate)
}

function packIndex(index: number, allocate: Allocate): void {
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
  const length = head.length + 1
  const prefix = length === 1 ? 1 : length < 0x100 ? 2 : length < 0x10000 ? 3 : 5
  const header = prefix + 2
  const byReference = head.length >= BY_REFERENCE
  const { target, targetView, position } = allocate(byReference ? header : header + head.length)
  target[position] = prefix === 1 ? 0xd4 : prefix === 2 ? 0xc7 : prefix === 3 ? 0xc8 : 0xc9
  if (prefix === 2) target[position + 1] = length
  else if (prefix === 3) targetView.setUint16(position + 1, length)
  else if (prefix === 5) targetView.setUint32(position + 1, length)
  target[position + prefix] = CONNECTION_TYPE
  target[position + prefix + 1] = index
  if (byReference) leaveHole(target, position + header, head)
  else target.set(head, position + header)
}

/** `data`: the one byte, or a view of whatever length. */
function unpackDescriptor(data: Uint8Array | number | undefined): Descriptor {
  if (typeof data === 'number') return arrivedAt(data)
  if (data?.length !== 1) refuseIndex(data?.[0])
  return arrivedAt(data[0]!)
}
unpackDescriptor.oneByte = true

function unpackConnection(data: Uint8Array): Connection | ConnectionPlace {
  if (data.length === 0) refuseIndex(undefined)
  const descriptor = arrivedAt(data[0]!) as Descriptor | Place
  const head = Buffer.from(data.subarray(1)) // a copy, as the message may be large and this live long
  return descriptor instanceof Place ? new ConnectionPlace(descriptor.index, head) : connectionOf(descriptor, head)
}

function refuseIndex(index: number | undefined): never {
  throw new PassfdError('DESCRIPTOR_COUNT', { detail: `index ${index ?? 'none'} of ${call.arrived.length}` })
}

/** The descriptor of an index, which is used by that. */
function arrivedAt(index: number): Descriptor {
  const { arrived, usedOnce } = call
  const descriptor = arrived[index]
  if (descriptor === undefined) refuseIndex(index)
  if (arrived.length === 1 ? call.used > 0 : usedOnce[index])
    throw new PassfdError('DESCRIPTOR_COUNT', { detail: `index ${index} is used twice` })
  usedOnce[index] = true
  call.used++
  return descriptor
}

/** By their codes. */
const VIEWS = [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array
]
const CODES = new Map<string | undefined, number>(VIEWS.map(({ name }, code) => [name, code]))
const ARRAY_BUFFER = 16
const DATA_VIEW = 17
CODES.set(undefined, DATA_VIEW)
/** More than a header of msgpack can say. */
const TOO_LONG = 0xffffffff

/** A typed array or DataView: bin for a Buffer (and everything towards a peer without records), else msgpackr's extension 0x74. */
function packView(view: ArrayBufferView, allocate: Allocate, _: Pack, rich: boolean): void {
  const name = typedArrayName(view)
  const code = CODES.get(name)
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

/** `code`: of the extension 0x74; without it bin. If `mayStay` what is long is left where it is. */
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

function leaveHole(into: Buffer, at: number, bytes: Uint8Array): void {
  if (call.holes.length === 0) call.holes = []
  // msgpackr moves to a buffer of its own when ours is full; the frame then begins at its first byte
  const frameStart = into === call.target ? call.frameStart : 0
  call.holes.push({ at: at - frameStart - HEADER, bytes, length: bytes.byteLength })
  call.holeBytes += bytes.byteLength
}

const eachEntry = Map.prototype.forEach
const eachItem = Set.prototype.forEach

/** As `structuredClone`: the entries that it has now, whatever getters in them add or remove. */
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
  // A long string is made well-formed by Node, which does not say so
  if (typeof item === 'string' && item.length >= 0x40 && !item.isWellFormed()) state.illFormed = true
  if (typeof item === 'object' && item !== null && !Array.isArray(item)) {
    const prototype = Object.getPrototypeOf(item)
    if (prototype !== Object.prototype && packerOf(item, prototype) === packJson) items[at] = json
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

function unpackView(data: Uint8Array): unknown {
  const code = onlyWithRecords(data[0]!)
  const length = data.length - 1
  const offset = data.byteOffset + 1
  const View = VIEWS[code] as typeof Float64Array | undefined
  if (View !== undefined && length % View.BYTES_PER_ELEMENT === 0) {
    if (call.owned && offset % View.BYTES_PER_ELEMENT === 0)
      return new View(data.buffer as ArrayBuffer, offset, length / View.BYTES_PER_ELEMENT)
    return new View(Uint8Array.prototype.slice.call(data, 1).buffer)
  }
  if (code === ARRAY_BUFFER) return Uint8Array.prototype.slice.call(data, 1).buffer
  if (code === DATA_VIEW) return new DataView(Uint8Array.prototype.slice.call(data, 1).buffer)
  throw new PassfdError('UNDECODABLE', { detail: 'it holds a typed array of an unknown kind or odd length' })
}

/** The standard's three forms; one byte is how msgpackr writes an invalid Date. */
function unpackTimestamp(data: Uint8Array): Date {
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  const date = (seconds: number, nanoseconds: number) => new Date(seconds * 1000 + Math.floor(nanoseconds / 1_000_000))
  switch (data.length) {
    case 1:
      return new Date(Number.NaN)
    case 4:
      return date(view.getUint32(0), 0)
    case 8:
      return date((view.getUint32(0) & 3) * 2 ** 32 + view.getUint32(4), view.getUint32(0) >>> 2)
    case 12:
      return date(Number(view.getBigInt64(4)), view.getUint32(0))
    default:
      throw new PassfdError('UNDECODABLE', { detail: `it holds a timestamp of ${data.length} bytes` })
  }
}

/** Two's complement, big-endian, any length. */
function unpackBigInt(data: Uint8Array): bigint {
  onlyWithRecords(0)
  if (data.length === 0) refuseType()
  const magnitude = BigInt(`0x${Buffer.from(data.buffer, data.byteOffset, data.length).toString('hex')}`)
  return BigInt.asIntN(data.length * 8, magnitude)
}

const MAX_SHAPES = 256
const MAX_SHAPE_KEYS = 32
const MAX_SHAPE_LENGTH = 512
const shapes = new Map<string, string[]>()

/** One list of keys, with the reader compiled for it, for all channels that are sent the same. Large ones are each channel's own. */
export function shapeOf(keys: string[], secondByte: number | undefined): string[] {
  if (secondByte !== undefined)
    throw new PassfdError('UNDECODABLE', { detail: 'it defines a record whose id has two bytes' })
  if (!Array.isArray(keys) || keys.length > MAX_SHAPE_KEYS) return keys
  const name = JSON.stringify(keys)
  if (name.length > MAX_SHAPE_LENGTH) return keys
  const known = shapes.get(name)
  if (known !== undefined) return known
  if (shapes.size === MAX_SHAPES) shapes.clear() // those in use live on in their channels
  shapes.set(name, keys)
  return keys
}

/** An item takes a byte at least, so it can't be sent; to find that out at its end takes seconds if it is long and consists of holes. */
function tooLong(length: number): Refusal {
  const { bytes: limit, whose } = call.limit
  return new Refusal('', undefined, new PassfdError('MESSAGE_TOO_LARGE', { size: `more than ${length}`, whose, limit }))
}

addExtensions()
useHooks({ MAX_DEPTH, packerOf, checkSlots, checkKeys, unfit, changed, tooDeep, tooLong, within })
