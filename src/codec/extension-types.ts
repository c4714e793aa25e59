/** The protocol's extension types of msgpack, and their codes of typed arrays. */

export const DESCRIPTOR_TYPE = 0x46
export const CONNECTION_TYPE = 0x43
/** Bytes of an index in a wide body (see wide.ts), little-endian; otherwise it has one. */
export const WIDE_INDEX = 4

/** By their codes. */
export const VIEWS = [
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
export const ARRAY_BUFFER = 16
export const DATA_VIEW = 17
CODES.set(undefined, DATA_VIEW)

/** `name`: of the typed array, undefined for a DataView. */
export function codeOfView(name: string | undefined): number | undefined {
  return CODES.get(name)
}
