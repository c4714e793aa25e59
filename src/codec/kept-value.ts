/** A value that is kept as bytes, without descriptors: one body of standard msgpack, which every language reads. */
import { PassfdError } from '../base/errors.ts'
import { NO_DESCRIPTORS } from './encoded.ts'
import { encodePlain, unpackPlain } from './plain.ts'
import { withHoles } from './wide.ts'

/** Throws ERR_PASSFD_ENCODE, also for a value with Descriptors or Connections in it. They are not moved. */
export function encodeKept(value: unknown): Buffer {
  const encoded = encodePlain(value)
  if (encoded.descriptors.length > 0)
    throw new PassfdError('ENCODE', { detail: 'a value that is kept as bytes has no place for a Descriptor' })
  return withHoles(encoded)
}

/** Throws ERR_PASSFD_UNDECODABLE. */
export function decodeKept(bytes: Uint8Array): unknown {
  const body = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return unpackPlain({ bytes: body, start: 0, end: body.length, flags: 0, owned: true }, NO_DESCRIPTORS)
}
