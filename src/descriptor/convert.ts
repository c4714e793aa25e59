/** From numbers to Node's objects and back. Each maker gets a number that the shim holds; what it returns owns it. */
import * as dgram from 'node:dgram'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import type { Duplex, Readable, Writable } from 'node:stream'
import { madeElsewhere } from '../base/copy.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { closeFile } from '../os/close-file.ts'
import { native } from '../os/native.ts'
import type { DescriptorSource, Kind, ListenHandle } from './descriptor.ts'
import { PollStream } from './poll-stream.ts'

export const SOCKETS: readonly Kind[] = ['tcp', 'unix-stream']
export const DUPLEXES: readonly Kind[] = [...SOCKETS, 'pipe', 'tty']
export const LISTENERS: readonly Kind[] = ['tcp-listener', 'unix-stream-listener']
export const FILES: readonly Kind[] = ['file', 'memfd', 'device']
export const STREAMS: readonly Kind[] = [...FILES, ...DUPLEXES]

const O_ACCMODE = 3
const { O_RDONLY, O_WRONLY } = fs.constants

export function socket(fd: number): net.Socket {
  return released(fd, new net.Socket({ fd, readable: true, writable: true }))
}

export function duplex(fd: number, kind: Kind): Duplex {
  if (kind !== 'pipe' && kind !== 'tty') return socket(fd)
  const access = accessOf(fd)
  return new PollStream(fd, { kind, readable: access !== O_WRONLY, writable: access !== O_RDONLY })
}

/** Throws ERR_PASSFD_DESCRIPTOR_DIRECTION for what is open for writing only. */
export function checkReadable(fd: number, kind: Kind, operation: string): void {
  if (accessOf(fd) === O_WRONLY)
    throw new PassfdError('DESCRIPTOR_DIRECTION', { operation, kind, expected: 'reading', actual: 'writing' })
}

export function readable(fd: number, kind: Kind): Readable {
  checkReadable(fd, kind, 'toReadable()')
  if (kind === 'pipe' || kind === 'tty') return new PollStream(fd, { kind, readable: true, writable: false })
  if (SOCKETS.includes(kind)) return released(fd, new net.Socket({ fd, readable: true, writable: false }))
  return fs.createReadStream('', { fd, autoClose: true, fs: { read: fs.read, open: fs.open, close: closeFile } })
}

export function writable(fd: number, kind: Kind): Writable {
  if (accessOf(fd) === O_RDONLY)
    throw new PassfdError('DESCRIPTOR_DIRECTION', {
      operation: 'toWritable()',
      kind,
      expected: 'writing',
      actual: 'reading'
    })
  if (kind === 'pipe' || kind === 'tty') return new PollStream(fd, { kind, readable: false, writable: true })
  if (SOCKETS.includes(kind)) return released(fd, new net.Socket({ fd, readable: false, writable: true }))
  const { open, write, writev } = fs
  return fs.createWriteStream('', { fd, autoClose: true, fs: { open, write, writev, close: closeFile } })
}

export async function server(fd: number): Promise<net.Server> {
  const made = net.createServer()
  listenOnNumber(made, fd)
  await once(made, 'listening')
  return made
}

/** Node closes the held number from now on. If it refuses it, by an 'error' in the next tick or at once, the number is closed. */
export function listenOnNumber(server: net.Server, fd: number): void {
  try {
    server.listen({ fd, exclusive: true })
  } catch (error) {
    native.close(fd)
    throw error
  }
  const { _handle: handle } = server as { _handle?: object | null }
  if (handle === null || handle === undefined) native.close(fd)
  else native.release(fd)
}

export function listenHandle(fd: number): ListenHandle {
  return released(fd, { fd, exclusive: true })
}

export function datagram(fd: number): dgram.Socket {
  // A socket of the wrong type receives, but can't send; which one is right only a socket tells
  const copy = checked(native.dup(fd), 'dup')
  const family = familyOf(copy)
  const number = fd > 0 ? fd : checked(native.dup(fd), 'dup') // Node takes 0 for no number, and binds another port
  try {
    const made = released(number, datagramSocket(family === 'IPv6' ? 'udp6' : 'udp4', number))
    if (number !== fd) native.close(fd)
    return made
  } catch (error) {
    if (number !== fd) native.close(number)
    throw error
  }
}

/** Uses the held number up. */
function familyOf(fd: number): string {
  let probe: dgram.Socket
  try {
    probe = released(fd, datagramSocket('udp4', fd))
  } catch (error) {
    native.close(fd)
    throw error
  }
  try {
    return probe.address().family
  } finally {
    probe.close()
  }
}

function datagramSocket(type: dgram.SocketType, fd: number): dgram.Socket {
  const made = dgram.createSocket({ type })
  made.bind({ fd, exclusive: true }) // in a cluster's worker it would be the primary's number otherwise
  return made
}

/** Node's own object closes the number from now on. */
function released<T>(fd: number, made: T): T {
  native.release(fd)
  return made
}

function accessOf(fd: number): number {
  return checked(native.statusFlags(fd), 'fcntl') & O_ACCMODE
}

/** The number inside a source, which keeps it. Throws if the descriptor alone would not be what the source is. */
export function numberOf(source: DescriptorSource): number {
  const found = candidates(source).find(
    candidate => typeof candidate === 'number' && Number.isInteger(candidate) && candidate >= 0
  )
  // A TLSSocket's keys and state are not in the kernel
  if (found === undefined || property(source, 'encrypted') === true)
    throw new PassfdError('DESCRIPTOR_SOURCE', { actual: describe(source) })
  const count =
    source instanceof net.Socket || source instanceof PollStream || source instanceof fs.ReadStream
      ? source.readableLength
      : 0
  if (count > 0 && !isFile(found as number)) throw new PassfdError('UNREAD', { count })
  return found as number
}

/** Its bytes can be read again. */
function isFile(fd: number): boolean {
  return fs.fstatSync(fd).isFile()
}

function candidates(source: DescriptorSource): unknown[] {
  if (typeof source === 'number') return [source]
  if (source instanceof PollStream) return [source.number]
  if (source instanceof dgram.Socket) return [datagramNumber(source)]
  return [property(source, 'fd'), property(property(source, '_handle'), 'fd')]
}

export function checkInteger(value: unknown, what: string, min: number, max: number): asserts value is number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
    throw new PassfdError('INVALID_ARGUMENT', {
      what,
      expected: `an integer from ${min} to ${max}`,
      actual: describe(value)
    })
}

export function checkOneOf(value: unknown, what: string, allowed: readonly string[]): void {
  if (!allowed.includes(value as string))
    throw new PassfdError('INVALID_ARGUMENT', {
      what,
      expected: allowed.map(name => `'${name}'`).join(' or '),
      actual: describe(value)
    })
}

/** For what may be one of many things: throws ERR_PASSFD_INVALID_ARGUMENT if another copy of passfd has made it. */
export function checkOwnCopy(value: unknown, what: string, expected: string): void {
  if (madeElsewhere(value) !== undefined)
    throw new PassfdError('INVALID_ARGUMENT', { what, expected, actual: describe(value) })
}

/** A few words about any value, for an error's sentence. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${printable(value.length > 60 ? `${value.slice(0, 60)}…` : value)}'`
  if (typeof value === 'object' && value !== null) {
    const elsewhere = madeElsewhere(value)
    return elsewhere === undefined ? `an object (${className(value)})` : `a ${elsewhere.what} of ${elsewhere.by}`
  }
  return typeof value === 'function' ? 'a function' : String(value)
}

/** Its control characters and lone surrogates as escapes: a sentence is printed on terminals. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cs}]/gu, found => `\\u{${found.codePointAt(0)!.toString(16)}}`)
}

/** A program's object may throw when it is looked at. */
function className(value: object): string {
  try {
    const { name } = value.constructor ?? {}
    return typeof name === 'string' ? name : 'no class'
  } catch {
    return 'no class'
  }
}

/** Throws ERR_PASSFD_INVALID_ARGUMENT for a path that would be cut off at its NUL, or lead elsewhere because it is no Unicode text. */
export function checkPathText(path: string, what: string): void {
  if (path.includes('\0')) throw notAPath(what, 'a path without NUL bytes', path)
  if (hasLoneSurrogate(path)) throw notAPath(what, 'a path without lone surrogates', path)
}

export function hasLoneSurrogate(text: string): boolean {
  return /\p{Cs}/u.test(text)
}

function notAPath(what: string, expected: string, path: string): PassfdError {
  return new PassfdError('INVALID_ARGUMENT', { what, expected, actual: describe(path) })
}

function property(object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? (object as Record<string, unknown>)[name] : undefined
}

// A dgram.Socket keeps its handle behind a symbol; nothing public tells its number
function datagramNumber(source: dgram.Socket): unknown {
  const symbol = Object.getOwnPropertySymbols(source).find(({ description }) => description === 'state symbol')
  return symbol === undefined
    ? undefined
    : property(property((source as unknown as Record<symbol, unknown>)[symbol], 'handle'), 'fd')
}
