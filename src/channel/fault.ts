/** The bodies of faults and goodbyes: an error as one side sends it to the other. */

import { PassfdError, propertyOf, type RemoteError, textOf } from '../base/errors.ts'
import { withoutPlaces } from '../base/package-copy.ts'
import type { Encoded, Space } from '../codec/encoded.ts'
import { type Body, GOODBYE, writeHeader } from '../codec/frame.ts'
import { decodePlain, encodePlain } from '../codec/plain.ts'
import type { Wire } from './wire.ts'

const MAX_CODE = 64
const MAX_TEXT = 512
const NO_NUMBERS = new Int32Array(0)

/** Decodes a fault or goodbye: a map, which a goodbye may omit. Missing fields, and those of a wrong type, are empty. */
export function decodeError(encoded: Body, mayBeEmpty: boolean): RemoteError {
  const body = encoded.start === encoded.end && mayBeEmpty ? {} : decodePlain(encoded)
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw new PassfdError('UNDECODABLE', { detail: 'it tells of an error and is no map' })
  const { code, message, data } = body as Record<string, unknown>
  return {
    code: typeof code === 'string' ? code : '',
    message: typeof message === 'string' ? message : '',
    ...(data === undefined || data === null ? {} : { data })
  }
}

/** The parts of an error that are sent. */
export interface Told {
  readonly code: string
  readonly message: string
  /** The program's own object: encoding it may call getters. */
  readonly data: unknown
}

/** Reads `code` (or `name`), `message` and `data` of an error, each once. A getter that throws counts as absent. */
export function tell(error: unknown): Told {
  const code = propertyOf(error, 'code')
  const name = typeof code === 'string' ? code : propertyOf(error, 'name')
  return {
    code: (typeof name === 'string' ? name.slice(0, MAX_CODE) : '') || 'Error',
    message: withoutPlaces(textOf(error)).slice(0, MAX_TEXT),
    data: propertyOf(error, 'data')
  }
}

/** Encodes an error's `code`, `message` and `data`, never its stack. If that is too long for the peer, without data, then message, then code. */
export function encodeFault(told: Told, limit: number, space: Space): Encoded {
  const { code, message, data } = told
  if (data !== undefined) {
    try {
      const encoded = encodePlain({ code, message, data }, space, {
        bytes: limit,
        whose: 'the peer (maxMessage)'
      })
      if (encoded.length <= limit && encoded.descriptors.length === 0 && encoded.holes.length === 0) return encoded
    } catch {
      // data that can't be encoded is left out
    }
  }
  return firstThatFits([{ code, message }, { code }], limit, space) ?? encodePlain({}, space)
}

/** Encodes the goodbye of a channel that ends early, with or without an error. Undefined if the peer accepts none of that length. */
export function encodeLastWords(reason: Error | undefined, limit: number, space: Space): Encoded | undefined {
  const { code, message } = tell(reason ?? new PassfdError('DESTROYED'))
  return firstThatFits([{ code, message }, { code }], limit, space)
}

/** Sends a refused peer the reason, before any hello, and closes the wire. */
export function refuse(wire: Wire, error: PassfdError): void {
  const { bytes, start, end, length } = encodePlain({ code: error.code, message: error.message.slice(0, MAX_TEXT) })
  writeHeader(bytes, start, length, GOODBYE, 0, 0, 0)
  wire.send(bytes, start, end, NO_NUMBERS, 0)
  wire.end()
}

/** `maxMessage` counts bodies of every kind. */
function firstThatFits(bodies: object[], limit: number, space: Space): Encoded | undefined {
  for (const body of bodies) {
    const encoded = encodePlain(body, space)
    if (encoded.length <= limit) return encoded
  }
  return undefined
}

/** The error for a goodbye with a code. */
export function peerError(remote: RemoteError): PassfdError {
  return new PassfdError('PEER', { code: remote.code, message: remote.message }, { remote })
}
