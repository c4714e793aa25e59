/** Where datagrams go and come from. */
import { displayName, type SocketName, socketName, withNameBytes } from '../os/socket-name.ts'

/** A path, `{ path }`, or `{ abstract }`: a name in Linux's abstract namespace (unix(7)), which has no permissions. */
export type DatagramAddress = string | SocketName

/** An address that has been checked. */
export interface Destination {
  /** The same for the same address. */
  readonly key: string
  /** For error messages. */
  readonly shown: string
  /** Lends the bytes of sun_path. */
  use<T>(use: (bytes: Uint8Array) => T): T
}

/** What the kernel said, to the byte: the text of a name that is not UTF-8 would lead elsewhere. */
const exact = new WeakMap<object, Buffer>()
/** Names that are valid in one process only. In this process they would mean another socket. */
const OF_ONE_PROCESS = /^\/proc\/(self|thread-self)\//

/** Reads an address as users, or `addressOf`, give it. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function destinationOf(address: unknown): Destination {
  const name = socketName(address)
  const shown = displayName(name)
  const bytes = typeof address === 'object' && address !== null ? exact.get(address) : undefined
  if (bytes !== undefined) return exactly(bytes, shown)
  const key = 'path' in name ? name.path : `\0${Buffer.from(name.abstract).toString('latin1')}`
  return { key, shown, use: use => withNameBytes(name, use) }
}

/** The name of a socket as the kernel reports it; undefined if it has none, or one that this process can't reach. */
export function addressOf(bytes: Uint8Array): SocketName | undefined {
  if (bytes.length < 2 && (bytes.length === 0 || bytes[0] === 0)) return undefined
  const copy = Buffer.from(bytes)
  const address: SocketName = copy[0] === 0 ? { abstract: copy.toString('utf8', 1) } : { path: copy.toString() }
  if ('path' in address && OF_ONE_PROCESS.test(address.path)) return undefined
  Object.freeze(address)
  exact.set(address, copy)
  return address
}

function exactly(bytes: Buffer, shown: string): Destination {
  return { key: bytes.toString('latin1'), shown, use: use => use(bytes) }
}
