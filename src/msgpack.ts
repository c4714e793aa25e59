/**
 * An instance of msgpackr of our own, with the extensions of the protocol and no others. Its pack target and extension table are
 * globals of its module: this way another user of msgpackr in the process can't pack into our buffers, nor can its
 * extensions change the wire.
 */
import { EventEmitter } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { compileFunction } from 'node:vm'
import type * as Msgpackr from 'msgpackr'
import { Connection, connectionOf, descriptorOf } from './connection.ts'
import { assertOpen, Descriptor } from './descriptor.ts'
import { PassfdError } from './errors.ts'
import { HEADER } from './frame.ts'
import { MAX_RIGHTS } from './limits.ts'

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

export type Packer = Msgpackr.Packr & {
  position: number
  structures: Structures
  /** The ring of known shapes, oldest first: there only if the instance was made by us to have it (see `loadOwnInstance`). */
  recordIds?: object[]
  moreTypes: boolean
  pack(value: unknown, mode: number): Packed
}
export type Packed = Buffer & { start: number; end: number }
export type Structures = (string[] | undefined)[] & { nextId?: number }
export type Unpacker = Msgpackr.Unpackr & { copyBuffers: boolean; structures: Structures }

/** What the extensions see of the call in progress; the codec sets it before each. */
export const call = {
  /** Encoding: where the frame begins in `target`, and what was collected. */
  frameStart: 0,
  target: EMPTY as Buffer,
  descriptors: NO_DESCRIPTORS,
  holes: NO_HOLES,
  /** Decoding: what came with the frame, and how much of it the body has used. */
  arrived: NO_DESCRIPTORS as readonly Descriptor[],
  used: 0,
  usedOnce: [] as boolean[],
  /** The body is flagged: further types are allowed. */
  records: false,
  /** Binary values may be views of the body. */
  owned: false
}

/** For msgpackr's `writeFunction`. */
export function refuseFunction(): never {
  throw new PassfdError('ENCODE', { detail: 'it holds a function' })
}

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
    'it holds an object that is alive in this process (a socket, stream or server); send Descriptor.from(it), or await Connection.take(it)'
  )
  // msgpackr itself would make nothing of a DataView in plain bodies
  add({ Class: DataView, type: 0x74, pack: packView, unpack: unpackView })
  add({ Class: TypedArray, type: 0x74, pack: packView, unpack: unpackView })
  add({ type: 0x73, read: (items: Iterable<unknown>) => new Set(onlyWithRecords(items)) })
  add({ type: 0x42, unpack: unpackBigInt })
  add({ type: 0xff, unpack: unpackTimestamp })
  add({ type: 0x00, unpack: Object.assign(() => onlyWithRecords(undefined), { noBuffer: true }) })
  for (const type of [0x62, 0x65, 0x69, 0x70, 0x78]) add({ type, unpack: refuseType })
  add({ Class: Place, type: DESCRIPTOR_TYPE, pack: packPlace, unpack: unpackDescriptor })
  add({ Class: ConnectionPlace, type: CONNECTION_TYPE, pack: packConnectionPlace, unpack: unpackConnection })
  add({ Class: Connection, type: CONNECTION_TYPE, pack: packConnection, unpack: unpackConnection })
  add({ Class: Descriptor, type: DESCRIPTOR_TYPE, pack: packDescriptor, unpack: unpackDescriptor })
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
  return call.records ? value : refuseType()
}

function packDescriptor(descriptor: Descriptor, allocate: Allocate): void {
  packIndex(collect(descriptor), allocate)
}

function packConnection(connection: Connection, allocate: Allocate): void {
  packHead(collect(descriptorOf(connection)), connection.head, allocate)
}

function packConnectionPlace({ index, head }: ConnectionPlace, allocate: Allocate): void {
  packHead(index, head, allocate)
}

/** Gives the descriptor its index. */
export function collect(descriptor: Descriptor): number {
  assertOpen(descriptor)
  if (call.descriptors.length === 0) {
    call.descriptors = [descriptor] // most often the only one: what is pushed into an empty array makes room for 17
    return 0
  }
  if (call.descriptors.includes(descriptor)) throw new PassfdError('DESCRIPTOR_REPEATED')
  if (call.descriptors.length > MAX_RIGHTS)
    throw new PassfdError('TOO_MANY_DESCRIPTORS', {
      count: `more than ${MAX_RIGHTS}`,
      whose: 'the protocol',
      limit: MAX_RIGHTS
    })
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
  else leaveHole(into, position + header, bytes)
}

function leaveHole(into: Buffer, at: number, bytes: Uint8Array): void {
  if (call.holes.length === 0) call.holes = []
  // msgpackr moves to a buffer of its own when ours is full; the frame then begins at its first byte
  const frameStart = into === call.target ? call.frameStart : 0
  call.holes.push({ at: at - frameStart - HEADER, bytes })
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

/** Where msgpackr reads an extension of one byte. Without the change of this place, in another version, it only takes longer. */
const ONE_BYTE = 'extension(src.subarray(position$1, ++position$1))'

/**
 * msgpackr keeps the shapes it knows in a tree that branches by key, and notes the end of a shape in the same place by the name
 * `__keys__`: an object with that key is taken for another. In our instance the note has a name that is no key. And the byte c1,
 * which msgpack does not use, is an error instead of an object that stands for it.
 *
 * It also lets channels share what is large: the ring of shapes, a local of each Packr's, becomes a property, so that one Packr can
 * serve many tables; and the readers that it compiles for a shape are kept by shape instead of by channel.
 */
function loadOwnInstance(): typeof Msgpackr {
  const file = createRequire(import.meta.url).resolve('msgpackr')
  const source = readFileSync(file, 'utf8')
    .replaceAll('.__keys__', '[passfdKeys]')
    .replaceAll('Object.create(null)', 'new PassfdNode()')
    .replace('return C1;', 'throw new Error("it holds the byte c1, which msgpack does not use");')
    // It is always a Buffer, and to ask for its `buffer` is a call of the runtime
    .replace('!source.buffer && source.constructor', 'source.constructor')
    // A view of one byte takes longer to make than all the rest of reading a descriptor's index
    .replace(ONE_BYTE, 'extension(extension.oneByte ? src[position$$1++] : src.subarray(position$$1, ++position$$1))')
    .replace('let recordIdsToRemove = [];', 'this.recordIds = [];')
    .replaceAll(/\brecordIdsToRemove\b/g, 'packr.recordIds')
    .replace(DEFINITION, `structure = shapeOf(structure, highByte);$&`)
    .replace('structure.read = createStructureReader(structure, firstByte)', match => match.replace('=', '||='))
  checksIds = source.includes('shapeOf(')
  const module = { exports: {} as typeof Msgpackr }
  const names = ['exports', 'require', 'module', 'passfdKeys', 'PassfdNode', 'shapeOf']
  const run = compileFunction(source, names, { filename: file })
  run(module.exports, createRequire(file), module, Symbol('keys'), Node, shapeOf)
  addExtensions(module.exports)
  return module.exports
}

/** A place in the tree of shapes. It inherits nothing either, but is a sixth in size of what Object.create(null) makes. */
function Node(): void {}
Node.prototype = Object.create(null)

const DEFINITION = 'let existingStructure = currentStructures[id];'
/** Our instance refuses ids of two bytes, so a body defines none but 0-63. */
export let checksIds = false
const MAX_SHAPES = 256
const MAX_SHAPE_KEYS = 32
const MAX_SHAPE_LENGTH = 512
const shapes = new Map<string, string[]>()

/** One list of keys, with the reader compiled for it, for all channels that are sent the same. Large ones are each channel's own. */
function shapeOf(keys: string[], secondByte: number | undefined): string[] {
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

export const msgpackr = loadOwnInstance()
