/** From numbers to Node's objects and back. Each maker gets a number that what it returns owns, unless `isLeft` says otherwise. */
import * as dgram from 'node:dgram'
import * as fs from 'node:fs'
import * as net from 'node:net'
import type { Readable, Writable } from 'node:stream'
import * as tty from 'node:tty'
import type { DescriptorSource, Kind } from './descriptor.ts'
import { checked, PassfdError } from './errors.ts'
import { native } from './native.ts'

export const SOCKETS: readonly Kind[] = ['tcp', 'unix-stream', 'pipe', 'tty']
export const LISTENERS: readonly Kind[] = ['tcp-listener', 'unix-stream-listener']
export const READABLES: readonly Kind[] = ['file', 'device', ...SOCKETS]

const O_ACCMODE = 3

export function socket(fd: number, kind: Kind): net.Socket {
  return directed(fd, kind, kind === 'pipe' ? directionsOf(fd) : { readable: true, writable: true })
}

export function server(fd: number): Promise<net.Server> {
  return new Promise((resolve, reject) => {
    const made = net.createServer()
    made.once('error', reject)
    made.listen({ fd, exclusive: true }, () => {
      made.off('error', reject)
      resolve(made)
    })
  })
}

export function datagram(fd: number): dgram.Socket {
  // A socket of the wrong type receives, but can't send; which one is right only a socket tells
  const copy = checked(native.dup(fd), 'dup')
  const probe = datagramSocket('udp4', copy)
  native.release(copy)
  const { family } = probe.address()
  probe.close()
  return datagramSocket(family === 'IPv6' ? 'udp6' : 'udp4', fd)
}

function datagramSocket(type: dgram.SocketType, fd: number): dgram.Socket {
  const made = dgram.createSocket({ type })
  made.bind({ fd, exclusive: true }) // in a cluster's worker it would be the primary's number otherwise
  return made
}

export function readable(fd: number, kind: Kind): Readable {
  return kind === 'file' || kind === 'device'
    ? fs.createReadStream('', { fd, autoClose: true })
    : directed(fd, kind, { readable: true, writable: false })
}

export function writable(fd: number, kind: Kind): Writable {
  return kind === 'file' || kind === 'device'
    ? fs.createWriteStream('', { fd, autoClose: true })
    : directed(fd, kind, { readable: false, writable: true })
}

interface Directions {
  readable: boolean
  writable: boolean
}

function directed(fd: number, kind: Kind, directions: Directions): net.Socket {
  if (kind === 'tty') return new tty.ReadStream(fd) // net.Socket refuses terminals; this one also writes
  return new net.Socket({ fd, ...directions })
}

/** libuv opens a terminal anew, so as not to make it non-blocking for everybody, and leaves the number to us (uv_tty_init). */
export function isLeft(fd: number, made: unknown): boolean {
  return made instanceof tty.ReadStream && property(property(made, '_handle'), 'fd') !== fd
}

/** A pipe's end goes one way (pipe(7)), and a net.Socket that tries the other fails with ENOTCONN. */
function directionsOf(fd: number): Directions {
  const [, flags = '0'] = /^flags:\s*(\d+)/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? []
  const access = Number.parseInt(flags, 8) & O_ACCMODE
  return { readable: access !== fs.constants.O_WRONLY, writable: access !== fs.constants.O_RDONLY }
}

/** The number inside a source, which keeps it. */
export function numberOf(source: DescriptorSource): number {
  const found = candidates(source).find(
    candidate => typeof candidate === 'number' && Number.isInteger(candidate) && candidate >= 0
  )
  if (found === undefined) throw new PassfdError('DESCRIPTOR_SOURCE', { actual: describe(source) })
  return found as number
}

function candidates(source: DescriptorSource): unknown[] {
  if (typeof source === 'number') return [source]
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

/** A few words about any value, for an error's sentence. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`
  if (typeof value === 'object' && value !== null) return `an object (${value.constructor?.name ?? 'no class'})`
  return typeof value === 'function' ? 'a function' : String(value)
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
