/** Options of raw streams, packet sockets and their servers: defaults and checks. */

import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType, describe } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import type { KnownOptions } from '../base/known-options.ts'
import type { Peer } from '../descriptor/peer.ts'
import { accessOf, type FileAccess } from '../os/account.ts'

export interface StreamOptions {
  /** Descriptors that wait to leave, and, with `keepDescriptors`, those that wait to be taken. Default 1,024. */
  maxDescriptors?: number
  /** Received descriptors wait for `takeDescriptors()` instead of being closed when nobody listens. Default false. */
  keepDescriptors?: boolean
  /** In each direction, in bytes (stream.Duplex). Default 64 KiB. */
  highWaterMark?: number
  /** The writable side stays open when the peer has ended. Default false, as with net.Socket. */
  allowHalfOpen?: boolean
}

export interface PacketOptions {
  /** The largest packet taken from the peer, in bytes. Default 256 KiB, more than Linux lets anybody send unless it was told to. */
  maxPacket?: number
  /** Packets that wait to leave. Default 1,024. */
  maxQueued?: number
  /** Descriptors that wait to leave. Default 1,024. */
  maxDescriptors?: number
  /** `send()` works on when the peer has ended. Default false. */
  allowHalfOpen?: boolean
}

/** Whom to talk to, and for how long to try. */
export interface AdmissionOptions {
  /** Who may be at the other end. Default of `listen`: a process of the same user, or root. Of `connect`: anybody. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** For a place in the listener's queue and for `authorize`, in ms. Default 10,000; 0: no limit. */
  handshakeTimeout?: number
  /** `connect`: ends the attempt. `listen`: closes the server. With Node's AbortError. */
  signal?: AbortSignal
}

export interface ServerOptions extends AdmissionOptions {
  /** Permissions of the socket file, from its first instant. Default 0o600. */
  mode?: number
  /** The user whom the socket file belongs to: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Its group: a number, or a name in /etc/group. Default: this process's. Who may connect by it still has to pass `authorize`. */
  group?: number | string
  /** Connections that wait to be accepted (listen(2)). Default 511. */
  backlog?: number
  /** Connections at a time; more wait in the listener's queue. Default 1,024. */
  maxConnections?: number
}

const ADMISSION = {
  authorize: 'method',
  handshakeTimeout: true,
  signal: true
} as const satisfies KnownOptions<AdmissionOptions>
const SERVER = {
  ...ADMISSION,
  mode: true,
  owner: true,
  group: true,
  backlog: true,
  maxConnections: true
} as const satisfies KnownOptions<ServerOptions>

export const STREAM_OPTIONS = {
  maxDescriptors: true,
  keepDescriptors: true,
  highWaterMark: true,
  allowHalfOpen: true
} as const satisfies KnownOptions<StreamOptions>
export const PACKET_OPTIONS = {
  maxPacket: true,
  maxQueued: true,
  maxDescriptors: true,
  allowHalfOpen: true
} as const satisfies KnownOptions<PacketOptions>
export const CONNECT_STREAM_OPTIONS = { ...STREAM_OPTIONS, ...ADMISSION }
export const CONNECT_PACKET_OPTIONS = { ...PACKET_OPTIONS, ...ADMISSION }
export const LISTEN_STREAM_OPTIONS = { ...STREAM_OPTIONS, ...SERVER }
export const LISTEN_PACKET_OPTIONS = { ...PACKET_OPTIONS, ...SERVER }

const MAX = 0x7fffffff

export function streamLimits(options: StreamOptions): Required<StreamOptions> {
  const {
    maxDescriptors = 1024,
    keepDescriptors = false,
    highWaterMark = 65536,
    allowHalfOpen = false
  } = object(options)
  checkInteger(maxDescriptors, 'options.maxDescriptors', 1, MAX)
  checkInteger(highWaterMark, 'options.highWaterMark', 1, MAX)
  checkBoolean(keepDescriptors, 'keepDescriptors')
  checkBoolean(allowHalfOpen, 'allowHalfOpen')
  return { maxDescriptors, keepDescriptors, highWaterMark, allowHalfOpen }
}

export function packetLimits(options: PacketOptions): Required<PacketOptions> {
  const { maxPacket = 262_144, maxQueued = 1024, maxDescriptors = 1024, allowHalfOpen = false } = object(options)
  checkInteger(maxPacket, 'options.maxPacket', 1, MAX)
  checkInteger(maxQueued, 'options.maxQueued', 1, MAX)
  checkInteger(maxDescriptors, 'options.maxDescriptors', 1, MAX)
  checkBoolean(allowHalfOpen, 'allowHalfOpen')
  return { maxPacket, maxQueued, maxDescriptors, allowHalfOpen }
}

/** Fills in the defaults of what decides who is talked to; `authorize` and `signal` stay in `options`. */
export function admissionLimits(options: AdmissionOptions): { handshakeTimeout: number } {
  const { handshakeTimeout = 10_000, authorize, signal } = object(options)
  checkInteger(handshakeTimeout, 'options.handshakeTimeout', 0, MAX)
  checkType(authorize, 'authorize', 'a function', value => typeof value === 'function')
  checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
  return { handshakeTimeout }
}

export function listenLimits(options: ServerOptions): { access: FileAccess; backlog: number; maxConnections: number } {
  const { mode = 0o600, backlog = 511, maxConnections = 1024 } = object(options)
  checkInteger(mode, 'options.mode', 0, 0o777)
  checkInteger(backlog, 'options.backlog', 1, MAX)
  checkInteger(maxConnections, 'options.maxConnections', 1, MAX)
  return { access: accessOf(options, mode, 'options.'), backlog, maxConnections }
}

function object<Options>(options: Options): Options {
  if (typeof options === 'object' && options !== null) return options
  throw new PassfdError('INVALID_ARGUMENT', { what: 'options', expected: 'an object', actual: describe(options) })
}

function checkBoolean(value: unknown, name: string): void {
  checkType(value, name, 'true or false', () => typeof value === 'boolean')
}
