/** The protocol's extensions of msgpack, as they are read; no others are. */
import { PassfdError } from '../base/errors.ts'
import { type Connection, connectionOf } from '../connection/connection.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { arrivedAt, call, refuseIndex } from './codec-in-progress.ts'
import { ARRAY_BUFFER, CONNECTION_TYPE, DATA_VIEW, DESCRIPTOR_TYPE, VIEWS, WIDE_INDEX } from './extension-types.ts'
import { addToChains } from './key-chains.ts'
import { addExtension } from './msgpackr/pack.js'
import { ConnectionPlaceholder, Placeholder } from './placeholders.ts'

/** So many bytes fit into a number exactly. */
const SHORT_INTEGER = 6

/** Adds them to our instance of msgpackr. */
export function addExtensions(): void {
  addExtension({ type: 0x74, unpack: unpackView })
  addExtension({ type: 0x73, read: readSet })
  addExtension({ type: 0x42, unpack: unpackBigInt })
  addExtension({ type: 0xff, unpack: unpackTimestamp })
  addExtension({ type: 0x00, unpack: Object.assign(() => onlyWithRecords(undefined), { noBuffer: true }) })
  for (const type of [0x62, 0x65, 0x69, 0x70, 0x78]) addExtension({ type, unpack: refuseType })
  addExtension({ type: CONNECTION_TYPE, unpack: unpackConnection })
  addExtension({ type: DESCRIPTOR_TYPE, unpack: unpackDescriptor })
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

/** `data`: the one byte, or a view of whatever length. */
function unpackDescriptor(data: Uint8Array | number | undefined): Descriptor {
  if (call.wide !== undefined) return arrivedAt(wideIndex(data, WIDE_INDEX))
  if (typeof data === 'number') return arrivedAt(data)
  if (data?.length !== 1) refuseIndex(data?.[0])
  return arrivedAt(data[0]!)
}
unpackDescriptor.oneByte = true

function unpackConnection(data: Uint8Array): Connection | ConnectionPlaceholder {
  const wide = call.wide !== undefined
  if (data.length === 0) refuseIndex(undefined)
  const descriptor = arrivedAt(wide ? wideIndex(data) : data[0]!) as Descriptor | Placeholder
  const head = Buffer.from(data.subarray(wide ? WIDE_INDEX : 1)) // a copy, as the message may be large and this live long
  return descriptor instanceof Placeholder
    ? new ConnectionPlaceholder(descriptor.index, head)
    : connectionOf(descriptor, head)
}

/** `length`: what the extension must have. */
function wideIndex(data: Uint8Array | number | undefined, length?: number): number {
  if (typeof data !== 'object' || data.length < WIDE_INDEX || (length !== undefined && data.length !== length))
    return refuseIndex(undefined)
  return Buffer.from(data.buffer, data.byteOffset, WIDE_INDEX).readUInt32LE()
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
  if (code === ARRAY_BUFFER) return (data.buffer as ArrayBuffer).slice(offset, offset + length)
  if (code === DATA_VIEW)
    return call.owned
      ? new DataView(data.buffer as ArrayBuffer, offset, length)
      : new DataView((data.buffer as ArrayBuffer).slice(offset, offset + length))
  throw new PassfdError('UNDECODABLE', { detail: 'it holds a typed array of an unknown kind or odd length' })
}

/** The standard's three forms; one byte is how msgpackr writes an invalid Date. */
function unpackTimestamp(data: Uint8Array): Date {
  // Without a DataView, which takes longer to make than the Date
  switch (data.length) {
    case 1:
      return new Date(Number.NaN)
    case 4:
      return dateOf(uint32(data, 0), 0)
    case 8:
      return dateOf((data[3]! & 3) * 2 ** 32 + uint32(data, 4), uint32(data, 0) >>> 2)
    case 12:
      return dateOf(Number(new DataView(data.buffer, data.byteOffset).getBigInt64(4)), uint32(data, 0))
    default:
      throw new PassfdError('UNDECODABLE', { detail: `it holds a timestamp of ${data.length} bytes` })
  }
}

function dateOf(seconds: number, nanoseconds: number): Date {
  return new Date(seconds * 1000 + Math.floor(nanoseconds / 1_000_000))
}

/** Big-endian. */
function uint32(data: Uint8Array, at: number): number {
  return ((data[at]! << 24) | (data[at + 1]! << 16) | (data[at + 2]! << 8) | data[at + 3]!) >>> 0
}

/** Two's complement, big-endian, any length. */
function unpackBigInt(data: Uint8Array): bigint {
  onlyWithRecords(0)
  const { length } = data
  if (length === 0) refuseType()
  if (length <= SHORT_INTEGER) return BigInt(integerOf(data))
  const magnitude = BigInt(`0x${Buffer.from(data.buffer, data.byteOffset, data.length).toString('hex')}`)
  return BigInt.asIntN(length * 8, magnitude)
}

function integerOf(data: Uint8Array): number {
  let integer = (data[0]! << 24) >> 24
  for (let at = 1; at < data.length; at++) integer = integer * 256 + data[at]!
  return integer
}
