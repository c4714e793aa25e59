/** The server name in the first bytes of a TLS connection (RFC 8446, 4.1.2, and RFC 6066, 3). */

const HANDSHAKE = 22
const CLIENT_HELLO = 1
const SERVER_NAME = 0

/** Undefined: the message goes on. `''`: it names none, or this is no TLS. */
export function serverName(head: Buffer): string | undefined {
  if (head.length > 0 && head[0] !== HANDSHAKE) return ''
  if (head.length < 5) return undefined
  if (head.length < 5 + head.readUInt16BE(3)) return undefined
  if (head[5] !== CLIENT_HELLO) return ''
  let at = 5 + 4 + 2 + 32 // the headers of record and message, version, random
  at += 1 + head.readUInt8(at) // session id
  at += 2 + head.readUInt16BE(at) // cipher suites
  at += 1 + head.readUInt8(at) // compression
  const end = at + 2 + head.readUInt16BE(at)
  for (at += 2; at < end; at += 4 + head.readUInt16BE(at + 2))
    if (head.readUInt16BE(at) === SERVER_NAME)
      return head.toString('latin1', at + 9, at + 9 + head.readUInt16BE(at + 7))
  return ''
}
