/**
 * An instance of msgpackr of our own, with the extensions of the protocol and no others. Its pack target and extension table are
 * globals of its module: this way another user of msgpackr in the process can't pack into our buffers, nor can its
 * extensions change the wire. scripts/msgpackr.mjs makes it.
 */
import { EventEmitter } from 'node:events'
import { Connection, connectionOf, descriptorOf } from './connection.ts'
import { assertOpen, Descriptor } from './descriptor.ts'
import { PassfdError } from './errors.ts'
import { HEADER } from './frame.ts'
import { MAX_RIGHTS } from './limits.ts'
import { addExtension, type Packr } from './msgpackr/pack.js'

export { Packr, RESERVE_START_SPACE, REUSE_BUFFER_MODE, type Structures, Unpackr } from './msgpackr/pack.js'

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

function addExtensions(): void {
  const TypedArray = Object.getPrototypeOf(Uint8Array)
  refuseClass(Error, 'it holds an Error; send its code and message')
  refuseClass(RegExp, 'it holds a RegExp; send its source')
  refuseClass(Promise, 'it holds a Promise; await it first')
  for (const Weak of [WeakMap, WeakSet, WeakRef])
    refuseClass(Weak, `it holds a ${Weak.name}, whose contents can't be seen`)
  refuseClass(
    EventEmitter,
    'it holds an object that is alive in this process (a socket, stream or server); send Descriptor.from(it), or await Connection.take(it)'
  )
  // msgpackr itself would make nothing of a DataView in plain bodies
  addExtension({ Class: DataView, type: 0x74, pack: packView, unpack: unpackView })
  addExtension({ Class: TypedArray, type: 0x74, pack: packView, unpack: unpackView })
  addExtension({ type: 0x73, read: (items: Iterable<unknown>) => new Set(onlyWithRecords(items)) })
  addExtension({ type: 0x42, unpack: unpackBigInt })
  addExtension({ type: 0xff, unpack: unpackTimestamp })
  addExtension({ type: 0x00, unpack: Object.assign(() => onlyWithRecords(undefined), { noBuffer: true }) })
  for (const type of [0x62, 0x65, 0x69, 0x70, 0x78]) addExtension({ type, unpack: refuseType })
  addExtension({ Class: Place, type: DESCRIPTOR_TYPE, pack: packPlace, unpack: unpackDescriptor })
  addExtension({ Class: ConnectionPlace, type: CONNECTION_TYPE, pack: packConnectionPlace, unpack: unpackConnection })
  addExtension({ Class: Connection, type: CONNECTION_TYPE, pack: packConnection, unpack: unpackConnection })
  addExtension({ Class: Descriptor, type: DESCRIPTOR_TYPE, pack: packDescriptor, unpack: unpackDescriptor })
}

function refuseClass(Class: unknown, detail: string): void {
  addExtension({
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
      whose: 'the protocol (SCM_MAX_FD, unix(7))',
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
function packView(this: Packr, view: Uint8Array | DataView, allocate: Allocate): void {
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

addExtensions()
