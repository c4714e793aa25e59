/**
 * Values to bodies and back, by msgpackr. Three encodings, all of which a msgpackr decoder understands:
 *
 * - *plain*: standard msgpack; unflagged; for any peer.
 * - *streamed* (flag RECORDS): objects as sequential record structures, ids 0-31, which last for the channel. Only for a body
 *   whose place in the stream is final.
 * - *detached* (flag RECORDS): the same types, but every body defines the structures it uses, ids 32-63, and
 *   nothing of it lasts. For bodies that wait for credit, and for those whose structures are too big to keep.
 *
 * msgpackr's pack target and extension table are globals of its module, so this file loads an instance of its own:
 * another user of msgpackr in the process can't pack into our buffers, nor can its extensions change the wire.
 */
import { EventEmitter } from 'node:events'
import { createRequire } from 'node:module'
import type * as Msgpackr from 'msgpackr'
import { assertOpen, type Descriptor, Descriptor as DescriptorClass } from './descriptor.ts'
import { PassfdError } from './errors.ts'
import { HEADER, RECORDS } from './frame.ts'
import { MAX_DEPTH, MAX_RIGHTS } from './limits.ts'
import { copyShort, SHORT, short } from './short.ts'

/** Binary values from this size on are not copied into the body: the kernel takes them from where they are. */
export const BY_REFERENCE = 65536

/** What a kept record definition may hold: keys, and bytes of keys (each key counts one more). */
const MAX_RECORD_KEYS = 256
const MAX_RECORD_BYTES = 4096
/** Ids of structures that last for the channel come first, those of detached bodies after. */
const STREAMED_RECORDS = 32
/** The byte that stands for the first of them. */
const FIRST_ID = 0x40
const ALL_RECORDS = 64
/** msgpackr keeps known shapes in a tree that branches by key, and notes the end of a shape there under this very name. */
const RESERVED_KEY = '__keys__'

const DESCRIPTOR_TYPE = 0x46
const NO_DESCRIPTORS: Descriptor[] = []
const NO_HOLES: Hole[] = []
const EMPTY = Buffer.alloc(0)

/** A place in the body, counted from its beginning in what was packed, where `bytes` belong that were not copied. */
export interface Hole {
  at: number
  bytes: Uint8Array
}

/** The outcome of `encode`, valid until the next: `bytes` [start, end) with HEADER bytes free in front of the body. */
export interface Encoded {
  bytes: Buffer
  start: number
  end: number
  flags: number
  /** Length of the body, holes included. */
  length: number
  descriptors: Descriptor[]
  holes: Hole[]
}

/** Stands for a descriptor that has been moved already while its body is encoded anew. */
class Place {
  readonly index: number
  constructor(index: number) {
    this.index = index
  }
}

const msgpackr = loadOwnInstance()
const { Packr, Unpackr } = msgpackr
const PACK_MODE = msgpackr.REUSE_BUFFER_MODE | msgpackr.RESERVE_START_SPACE | HEADER

type Packer = Msgpackr.Packr & {
  position: number
  structures: Structures
  moreTypes: boolean
  pack(value: unknown, mode: number): Packed
}
type Packed = Buffer & { start: number; end: number }
type Structures = (string[] | undefined)[] & { nextId?: number; transitions?: object | undefined }
type Unpacker = Msgpackr.Unpackr & { copyBuffers: boolean; structures: Structures }

// What the extensions below see of the call in progress
let encoding = false
let frameStart = 0
let target: Buffer = EMPTY
let descriptors: Descriptor[] = NO_DESCRIPTORS
let holes: Hole[] = NO_HOLES
let arrived: readonly Descriptor[] = NO_DESCRIPTORS
let used = 0
let usedOnce: boolean[] = []
let decodingRecords = false
let owned = false

/** The buffer that msgpackr packs into at the moment, if it is one of ours. */
let attached: Buffer | undefined
let scratch: Buffer | undefined

const outcome: Encoded = {
  bytes: EMPTY,
  start: 0,
  end: 0,
  flags: 0,
  length: 0,
  descriptors: NO_DESCRIPTORS,
  holes: NO_HOLES
}
const range = { start: 0, end: 0 }

const plainPackr = new Packr({
  useRecords: false,
  moreTypes: false,
  encodeUndefinedAsNil: true,
  variableMapSize: true,
  writeFunction: refuse
} as object) as Packer
const detachedPackr = newDetachedPackr(keys => {
  if (keys.includes(RESERVED_KEY)) throw RESERVED
})
/** For bodies with that key: the tree is forgotten with each shape, so none can be mistaken for a branch. */
const forgetfulPackr = newDetachedPackr(() => {
  forgetfulPackr.structures.transitions = undefined
})
const RESERVED = new PassfdError('ENCODE', { detail: `it holds the key ${RESERVED_KEY}` })

const plainUnpackr = new Unpackr({
  useRecords: false,
  mapsAsObjects: true,
  int64AsType: 'auto',
  copyBuffers: true
} as object) as Unpacker
// An unflagged body that defines a record structure fails here, since nothing can be added
plainUnpackr.structures = Object.freeze([]) as unknown as Structures

/** One channel's encodings: its record tables live here. */
export class Codec {
  /** Both hellos have listed the feature `records`. */
  records = false
  #packr: StreamedPackr | undefined
  #unpackr: Unpacker | undefined
  #checked: Structures = []

  /**
   * Encodes a value into `slab` from `position` on if it fits there, else into a buffer of its own. `final`: the body's place in
   * the stream is settled. Descriptors are collected, not moved. Throws ERR_PASSFD_ENCODE and the errors of unusable descriptors.
   */
  encode(value: unknown, final: boolean, slab?: Buffer, position = 0): Encoded {
    if (!this.records) return pack(plainPackr, value, 0, slab, position)
    if (!final) return packDetached(value, slab, position)
    this.#packr ??= new StreamedPackr()
    const streamed = this.#packr
    streamed.defined = 0
    try {
      pack(streamed.packr, value, RECORDS, slab, position)
      if (streamed.fits()) return outcome
      this.#packr = undefined
    } catch (error) {
      this.#packr = undefined // definitions may be in its table that were never sent
      if (streamed.fits()) throw error
    }
    return packDetached(value, slab, position)
  }

  /** The body that was just encoded will not be sent after all: nor will the record definitions in it. */
  forget(): void {
    this.#packr = undefined
  }

  /**
   * Decodes a body. Each of `received` must be used exactly once. `own`: the buffer is the message's alone, so binary values may be views of it.
   * Throws ERR_PASSFD_UNDECODABLE, or ERR_PASSFD_DESCRIPTOR_COUNT when the indexes are wrong.
   */
  decode(
    bytes: Buffer,
    start: number,
    end: number,
    flagged: boolean,
    received: readonly Descriptor[],
    own: boolean
  ): unknown {
    if (flagged && !this.records)
      throw new PassfdError('UNDECODABLE', { detail: 'it uses records, which were not agreed on' })
    if (start === end) throw new PassfdError('UNDECODABLE', { detail: 'it is empty' })
    if (flagged && this.#unpackr === undefined) this.#unpackr = recordsUnpackr()
    const unpackr = flagged ? this.#unpackr! : plainUnpackr
    const value = unpack(unpackr, bytes, start, end, flagged, received, own)
    if (flagged && end - start > MAX_RECORD_KEYS) this.#checkStructures(unpackr.structures)
    return value
  }

  /** Keeps what a peer makes us remember small; a body too short to hold too big a definition needs no look. */
  #checkStructures(structures: Structures): void {
    const checked = this.#checked
    for (let id = 0; id < ALL_RECORDS; id++) {
      const structure = structures[id]
      if (structure === checked[id]) continue
      if (tooBig(structure)) {
        if (id < STREAMED_RECORDS)
          throw new PassfdError('UNDECODABLE', { detail: 'it defines a record with too many keys' })
        structures[id] = undefined
      } else checked[id] = structure
    }
  }
}

/** Re-encodes the body of a detached encoding as plain msgpack, for a peer that turned out not to know records. */
export function detachedToPlain(
  bytes: Buffer,
  start: number,
  end: number,
  count: number,
  missing: readonly Hole[]
): Encoded {
  const places = Array.from({ length: count }, (_, index) => new Place(index))
  const whole = missing.length === 0 ? bytes.subarray(start, end) : fillHoles(bytes.subarray(start, end), missing)
  const value = unpack(recordsUnpackr(), whole, 0, whole.length, true, places as unknown as Descriptor[], true)
  return pack(plainPackr, value, 0)
}

function fillHoles(body: Buffer, missing: readonly Hole[]): Buffer {
  const parts: Uint8Array[] = []
  let from = 0
  for (const { at, bytes } of missing) {
    parts.push(body.subarray(from, at), bytes)
    from = at
  }
  return Buffer.concat([...parts, body.subarray(from)])
}

/** A small map for hello, fault and goodbye: always plain. */
export function encodePlain(value: unknown, slab?: Buffer, position = 0): Encoded {
  return pack(plainPackr, value, 0, slab, position)
}

/** Decodes a hello, fault or goodbye. */
export function decodePlain(bytes: Buffer, start: number, end: number): unknown {
  return start === end ? undefined : unpack(plainUnpackr, bytes, start, end, false, NO_DESCRIPTORS, false)
}

function packDetached(value: unknown, slab?: Buffer, position = 0): Encoded {
  try {
    return pack(detachedPackr, value, RECORDS, slab, position)
  } catch (error) {
    if (error !== RESERVED) throw error
    detachedPackr.structures.transitions = undefined
    return pack(forgetfulPackr, value, RECORDS, slab, position)
  }
}

function pack(packr: Packer, value: unknown, flags: number, slab?: Buffer, position = 0): Encoded {
  if (encoding) throw new PassfdError('ENCODE', { detail: 'a getter or toJSON() inside it sends a message itself' })
  const into = slab ?? (scratch ??= Buffer.allocUnsafeSlow(65536))
  encoding = true
  descriptors = NO_DESCRIPTORS
  holes = NO_HOLES
  target = into
  frameStart = (position + 7) & ~7
  try {
    if (attached !== into) {
      packr.useBuffer(into)
      attached = into
    }
    packr.position = position
    const packed = packr.pack(value, PACK_MODE) as Packed
    const { start, end } = packed
    // It did not fit: msgpackr has gone on in a buffer of its own
    if (!Object.is(packed, into)) attached = undefined
    outcome.bytes = packed
    outcome.start = start
    outcome.end = end
    outcome.flags = flags
    outcome.length = end - start - HEADER
    outcome.descriptors = descriptors
    outcome.holes = holes
    for (const hole of holes) outcome.length += hole.bytes.byteLength
    if (end - start > MAX_DEPTH && !shallow(value, MAX_DEPTH))
      throw new PassfdError('ENCODE', { detail: `it is nested deeper than ${MAX_DEPTH}` })
    return outcome
  } catch (error) {
    attached = undefined
    throw error instanceof PassfdError ? error : new PassfdError('ENCODE', { detail: reason(error) }, { cause: error })
  } finally {
    encoding = false
    descriptors = NO_DESCRIPTORS
    holes = NO_HOLES
  }
}

function unpack(
  unpackr: Unpacker,
  bytes: Buffer,
  start: number,
  end: number,
  flagged: boolean,
  received: readonly Descriptor[],
  own: boolean
): unknown {
  arrived = received
  used = 0
  if (received.length > 1) usedOnce = new Array(received.length).fill(false)
  decodingRecords = flagged
  owned = own
  unpackr.copyBuffers = !own
  range.start = start
  range.end = end
  if (!own && end - start <= SHORT) {
    copyShort(bytes, start, end)
    bytes = short
    range.start = 0
    range.end = end - start
  }
  let value: unknown
  try {
    value = unpackr.unpack(bytes, range as never)
  } catch (error) {
    throw error instanceof PassfdError
      ? error
      : new PassfdError('UNDECODABLE', { detail: reason(error) }, { cause: error })
  } finally {
    arrived = NO_DESCRIPTORS
  }
  if (used !== received.length)
    throw new PassfdError('DESCRIPTOR_COUNT', {
      detail: `${received.length} came with the frame, ${used} stand in the body`
    })
  if (end - start > MAX_DEPTH && !shallow(value, MAX_DEPTH))
    throw new PassfdError('UNDECODABLE', { detail: `it is nested deeper than ${MAX_DEPTH}` })
  return value
}

/** One channel's table of shapes, and how many of them the body in progress has defined. */
class StreamedPackr {
  readonly packr = new Packr({
    sequential: true,
    moreTypes: true,
    maxSharedStructures: 0,
    maxOwnStructures: STREAMED_RECORDS,
    writeFunction: refuse
  } as object) as Packer
  defined = 0
  #nextId = FIRST_ID

  constructor() {
    // msgpackr sets it for each new shape, and for nothing else
    Object.defineProperty(this.packr.structures, 'nextId', {
      get: () => this.#nextId,
      set: id => {
        this.#nextId = id
        this.defined++
      }
    })
  }

  /** Whether what was defined is small enough to be kept by the peer, and what msgpackr can tell apart. */
  fits(): boolean {
    if (this.defined > STREAMED_RECORDS) return false // some have replaced others: they can't be looked at any more
    for (let i = 1; i <= this.defined; i++) {
      const structure = this.packr.structures[(this.#nextId - FIRST_ID - i + STREAMED_RECORDS) % STREAMED_RECORDS]
      if (structure === undefined || tooBig(structure) || structure.includes(RESERVED_KEY)) return false
    }
    return true
  }
}

/** `onShape` is called with the keys of each new shape of a body. */
function newDetachedPackr(onShape: (keys: string[]) => void): Packer {
  return new Packr({
    useRecords: true,
    moreTypes: true,
    structures: [],
    maxSharedStructures: STREAMED_RECORDS,
    maxOwnStructures: ALL_RECORDS - STREAMED_RECORDS,
    shouldShareStructure: (keys: string[]) => {
      onShape(keys)
      return false
    },
    writeFunction: refuse
  } as object) as Packer
}

function recordsUnpackr(): Unpacker {
  const structures: Structures = new Array(ALL_RECORDS).fill(undefined)
  const unpackr = new Unpackr({
    sequential: true,
    structures,
    int64AsType: 'bigint',
    copyBuffers: true
  } as object) as Unpacker
  Object.preventExtensions(structures) // ids beyond these can't be defined: the assignment throws
  return unpackr
}

function tooBig(structure: string[] | undefined): boolean {
  if (structure === undefined) return false
  // Typed arrays have a map(), so msgpackr takes them for lists of keys
  if (!Array.isArray(structure) || structure.length > MAX_RECORD_KEYS) return true
  let size = structure.length
  for (const key of structure) size += Buffer.byteLength(key)
  return size > MAX_RECORD_BYTES
}

/** True if nothing in the value stands deeper than `depth`. */
function shallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return true
  if (depth === 0) return false
  if (Array.isArray(value)) {
    for (const item of value) if (!shallow(item, depth - 1)) return false
  } else if (value instanceof Map) {
    for (const [key, item] of value) if (!shallow(key, depth - 1) || !shallow(item, depth - 1)) return false
  } else if (value instanceof Set) {
    for (const item of value) if (!shallow(item, depth - 1)) return false
  } else if (!(value instanceof DescriptorClass || value instanceof Date)) {
    for (const key in value) if (!shallow((value as Record<string, unknown>)[key], depth - 1)) return false
  }
  return true
}

function reason(error: unknown): string {
  if (error instanceof RangeError && /call stack/i.test(error.message))
    return 'it is nested too deep or refers to itself'
  return error instanceof Error ? error.message.slice(0, 200) : String(error)
}

function refuse(): never {
  throw new PassfdError('ENCODE', { detail: 'it holds a function' })
}

// --- extensions of our instance

type Allocate = (size: number) => { target: Buffer; targetView: DataView; position: number }

function addExtensions({ addExtension }: typeof Msgpackr): void {
  const add = addExtension as (extension: object) => void
  const TypedArray = Object.getPrototypeOf(Uint8Array)
  refuseClass(add, Error, 'it holds an Error; send its code and message')
  refuseClass(add, RegExp, 'it holds a RegExp; send its source')
  refuseClass(add, Promise, 'it holds a Promise; await it first')
  for (const Weak of [WeakMap, WeakSet, WeakRef])
    refuseClass(add, Weak, `it holds a ${Weak.name}, whose contents can't be seen`)
  refuseClass(
    add,
    EventEmitter,
    'it holds an object that is alive in this process (a socket, stream or server); send Descriptor.from(it)'
  )
  // msgpackr itself would make nothing of a DataView in plain bodies
  add({ Class: DataView, type: 0x74, pack: packView, unpack: unpackView })
  add({ Class: TypedArray, type: 0x74, pack: packView, unpack: unpackView })
  add({ type: 0x73, read: (items: Iterable<unknown>) => new Set(onlyWithRecords(items)) })
  add({ type: 0x42, unpack: unpackBigInt })
  add({ type: 0x00, unpack: Object.assign(() => onlyWithRecords(undefined), { noBuffer: true }) })
  for (const type of [0x62, 0x65, 0x69, 0x70, 0x78]) add({ type, unpack: refuseType })
  add({ Class: Place, type: DESCRIPTOR_TYPE, pack: packPlace, unpack: unpackDescriptor })
  add({ Class: DescriptorClass, type: DESCRIPTOR_TYPE, pack: packDescriptor, unpack: unpackDescriptor })
}

function refuseClass(add: (extension: object) => void, Class: unknown, detail: string): void {
  add({
    Class,
    type: 0x65,
    pack: () => {
      throw new PassfdError('ENCODE', { detail })
    },
    unpack: refuseType
  })
}

function refuseType(): never {
  throw new PassfdError('UNDECODABLE', { detail: 'it holds an extension type that is not part of the protocol' })
}

function onlyWithRecords<T>(value: T): T {
  return decodingRecords ? value : refuseType()
}

function packDescriptor(descriptor: Descriptor, allocate: Allocate): void {
  assertOpen(descriptor)
  if (descriptors.includes(descriptor)) throw new PassfdError('DESCRIPTOR_REPEATED')
  if (descriptors.length === 0) descriptors = []
  if (descriptors.length > MAX_RIGHTS)
    throw new PassfdError('TOO_MANY_DESCRIPTORS', {
      count: `more than ${MAX_RIGHTS}`,
      whose: 'the protocol',
      limit: MAX_RIGHTS
    })
  packIndex(descriptors.push(descriptor) - 1, allocate)
}

function packPlace({ index }: Place, allocate: Allocate): void {
  packIndex(index, allocate)
}

function packIndex(index: number, allocate: Allocate): void {
  const { target, position } = allocate(3)
  target[position] = 0xd4
  target[position + 1] = DESCRIPTOR_TYPE
  target[position + 2] = index
}

function unpackDescriptor(data: Uint8Array): Descriptor {
  const index = data[0]!
  const descriptor = arrived[index]
  if (data.length !== 1 || descriptor === undefined)
    throw new PassfdError('DESCRIPTOR_COUNT', { detail: `index ${index} of ${arrived.length}` })
  if (arrived.length === 1 ? used > 0 : usedOnce[index])
    throw new PassfdError('DESCRIPTOR_COUNT', { detail: `index ${index} is used twice` })
  usedOnce[index] = true
  used++
  return descriptor
}

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
const ARRAY_BUFFER = 16
const DATA_VIEW = 17

/** A typed array or DataView: bin for bytes (and everything towards a peer without records), else msgpackr's extension 0x74. */
function packView(this: Packer, view: Uint8Array | DataView, allocate: Allocate): void {
  const typed = this.moreTypes && !(view instanceof Buffer)
  const length = view.byteLength + (typed ? 1 : 0)
  const prefix = length < 0x100 ? 2 : length < 0x10000 ? 3 : 5
  const header = prefix + (typed ? 2 : 0)
  const byReference = view.byteLength >= BY_REFERENCE
  const { target: into, targetView, position } = allocate(byReference ? header : header + view.byteLength)
  into[position] = (typed ? 0xc7 : 0xc4) + (prefix === 2 ? 0 : prefix === 3 ? 1 : 2)
  if (prefix === 2) into[position + 1] = length
  else if (prefix === 3) targetView.setUint16(position + 1, length)
  else targetView.setUint32(position + 1, length)
  if (typed) {
    into[position + prefix] = 0x74
    into[position + prefix + 1] = viewCode(view)
  }
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  if (!byReference) into.set(bytes, position + header)
  else {
    if (holes.length === 0) holes = []
    // msgpackr moves to a buffer of its own when ours is full; the frame then begins at its first byte
    holes.push({ at: position + header - (into === target ? frameStart : 0) - HEADER, bytes })
  }
}

/** Classes that are none of these are sent as their bytes. */
function viewCode(view: Uint8Array | DataView): number {
  const code = VIEWS.indexOf(view.constructor as never)
  if (code < 0) return view instanceof DataView ? DATA_VIEW : VIEWS.indexOf(Uint8Array)
  return code
}

function unpackView(data: Uint8Array): unknown {
  const code = onlyWithRecords(data[0]!)
  const length = data.length - 1
  const offset = data.byteOffset + 1
  const View = VIEWS[code] as typeof Float64Array | undefined
  if (View !== undefined && length % View.BYTES_PER_ELEMENT === 0) {
    if (owned && offset % View.BYTES_PER_ELEMENT === 0)
      return new View(data.buffer as ArrayBuffer, offset, length / View.BYTES_PER_ELEMENT)
    return new View(Uint8Array.prototype.slice.call(data, 1).buffer)
  }
  if (code === ARRAY_BUFFER) return Uint8Array.prototype.slice.call(data, 1).buffer
  if (code === DATA_VIEW) return new DataView(Uint8Array.prototype.slice.call(data, 1).buffer)
  throw new PassfdError('UNDECODABLE', { detail: 'it holds a typed array of an unknown kind or odd length' })
}

/** Two's complement, big-endian, any length. */
function unpackBigInt(data: Uint8Array): bigint {
  onlyWithRecords(0)
  if (data.length === 0) refuseType()
  const magnitude = BigInt(`0x${Buffer.from(data.buffer, data.byteOffset, data.length).toString('hex')}`)
  return BigInt.asIntN(data.length * 8, magnitude)
}

function loadOwnInstance(): typeof Msgpackr {
  const require = createRequire(import.meta.url)
  const file = require.resolve('msgpackr')
  const shared = require.cache[file]
  delete require.cache[file]
  const instance = require(file) as typeof Msgpackr
  if (shared === undefined) delete require.cache[file]
  else require.cache[file] = shared
  addExtensions(instance)
  return instance
}
