/** The number inside an object of Node's. */
import * as dgram from 'node:dgram'
import * as fs from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import * as net from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { describe } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { PollStream } from './poll-stream.ts'

/** The interface of node-pty's terminals, whose types lack their `fd`. */
export interface PseudoTerminal {
  readonly pid: number
  readonly process: string
  resize(columns: number, rows: number): void
}

/** The sources of `Descriptor.from`. */
export type DescriptorSource =
  | net.Socket
  | net.Server
  | dgram.Socket
  | FileHandle
  | Readable
  | Writable
  | PseudoTerminal
  | { fd: number }
  | number

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

function property(object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? (object as Record<string, unknown>)[name] : undefined
}

// A dgram.Socket keeps its handle behind a symbol; no public property has its number
function datagramNumber(source: dgram.Socket): unknown {
  const symbol = Object.getOwnPropertySymbols(source).find(({ description }) => description === 'state symbol')
  return symbol === undefined
    ? undefined
    : property(property((source as unknown as Record<symbol, unknown>)[symbol], 'handle'), 'fd')
}
