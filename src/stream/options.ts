/** Options of raw streams, packet sockets and their servers: defaults and checks. */

import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType, describe } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import type { KnownOptions } from '../base/known-options.ts'
import type { Peer } from '../descriptor/peer.ts'
import { accessOf, type FileAccess } from '../os/account.ts'

export interface StreamOptions {
  /**
   * Limits the descriptors that wait to be sent and, with `keepDescriptors`, the received descriptors that wait for `takeDescriptors()`. Default
   * 1,024.
   */
  maxDescriptors?: number
  /**
   * Keeps received descriptors for `takeDescriptors()`. Otherwise passfd closes received descriptors for which there is no listener. Default
   * false.
   */
  keepDescriptors?: boolean
  /** Sets the buffer of each direction, in bytes (stream.Duplex). Default 64 KiB. */
  highWaterMark?: number
  /** Keeps the writable side open after the peer has ended. Default false, as with net.Socket. */
  allowHalfOpen?: boolean
}

export interface PacketOptions {
  /** Limits a received packet, in bytes. Default 256 KiB, more than Linux lets a process send with its default settings. */
  maxPacket?: number
  /** Limits the packets that wait to be sent. Default 1,024. */
  maxQueued?: number
  /** Limits the descriptors that wait to be sent. Default 1,024. */
  maxDescriptors?: number
  /** Lets `send()` work after the peer has ended. Default false. */
  allowHalfOpen?: boolean
}

/** Decides which peers are let in, and how long an attempt may take. */
export interface AdmissionOptions {
  /** Decides whether a process may be the peer. Default of `listen`: a process of the same user, or root. Default of `connect`: any process. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** Limits the wait for a place in the listener's queue, and for `authorize`, in ms. Default 10,000; 0: no limit. */
  handshakeTimeout?: number
  /** Ends the attempt of `connect`, or closes the server of `listen`, with Node's AbortError. */
  signal?: AbortSignal
}

export interface ServerOptions extends AdmissionOptions {
  /** Sets the permissions of the socket file, from the moment it exists. Default 0o600. */
  mode?: number
  /** Sets the user that owns the socket file: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Sets the group of the socket file: a number, or a name in /etc/group. Default: this process's. `authorize` still decides about its members. */
  group?: number | string
  /** Limits the connections that wait to be accepted (listen(2)). Default 511. */
  backlog?: number
  /** Limits the open connections. Further clients wait in the listener's queue. Default 1,024. */
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

/** Fills in the defaults of the admission options; `authorize` and `signal` stay in `options`. */
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
