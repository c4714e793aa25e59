/** Where datagrams go and come from. */
import { displayName, lastingBytes, type SocketName, socketName, withNameBytes } from '../os/socket-name.ts'

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

/** The last address that can't have changed since, because it is a string or comes from `addressOf`: many programs send to one only. */
let lastGiven: unknown
let lastDestination: Destination | undefined

/** Reads an address as users, or `addressOf`, give it. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function destinationOf(address: unknown): Destination {
  if (lastDestination !== undefined && address === lastGiven) return lastDestination
  const destination = read(address)
  if (typeof address === 'string' || exact.has(address as object)) {
    lastGiven = address
    lastDestination = destination
  }
  return destination
}

function read(address: unknown): Destination {
  const name = socketName(address)
  const shown = displayName(name)
  const bytes = typeof address === 'object' && address !== null ? exact.get(address) : undefined
  if (bytes !== undefined) return exactly(bytes, shown)
  const key = 'path' in name ? name.path : `\0${Buffer.from(name.abstract).toString('latin1')}`
  let lasting: Buffer | undefined
  return {
    key,
    shown,
    use: use => {
      lasting ??= lastingBytes(name)
      return lasting === undefined ? withNameBytes(name, use) : use(lasting)
    }
  }
}

/** What `addressOf` was given and returned last: many sockets receive from one sender only. The object is frozen. */
let lastBytes: Uint8Array = Buffer.alloc(0)
let lastAddress: SocketName | undefined

/**
 * The name of a socket as the kernel reports it, in the first `length` bytes (default: all). Undefined if it has none, or one that this process
 * can't reach.
 */
export function addressOf(memory: Uint8Array, length: number = memory.length): SocketName | undefined {
  if (length < 2 && (length === 0 || memory[0] === 0)) return undefined
  if (isLast(memory, length)) return lastAddress
  const copy = Buffer.from(memory.subarray(0, length))
  lastBytes = copy
  lastAddress = named(copy)
  return lastAddress
}

/** Faster than a call of Buffer's for so few bytes. */
function isLast(memory: Uint8Array, length: number): boolean {
  if (length !== lastBytes.length) return false
  for (let at = length - 1; at >= 0; at--) if (memory[at] !== lastBytes[at]) return false
  return true
}

function named(copy: Buffer): SocketName | undefined {
  const address: SocketName = copy[0] === 0 ? { abstract: copy.toString('utf8', 1) } : { path: copy.toString() }
  if ('path' in address && OF_ONE_PROCESS.test(address.path)) return undefined
  Object.freeze(address)
  exact.set(address, copy)
  return address
}

function exactly(bytes: Buffer, shown: string): Destination {
  return { key: bytes.toString('latin1'), shown, use: use => use(bytes) }
}
