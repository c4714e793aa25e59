/** A file with the habits of Node's FileHandle, which can't be made from a number. */

import * as fs from 'node:fs'
import type { FileReadOptions, FileReadResult } from 'node:fs/promises'
import { promisify } from 'node:util'
import { abortError, PassfdError } from '../base/errors.ts'
import { checkOptions, isOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { closeFile } from '../os/close-file.ts'
import { register, SETTLE, settleLater, unregister } from './leak.ts'

type Bytes = NodeJS.ArrayBufferView
type WriteFileOptions = BufferEncoding | { encoding?: BufferEncoding; signal?: AbortSignal; flush?: boolean } | null
type Data = string | Uint8Array | Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>

/** The position in the file, and the part of the buffer, in bytes; as in `fs.write`. */
export interface FileWriteOptions {
  offset?: number
  length?: number
  /** Default: the offset, which all holders of this open file share. */
  position?: number | null
}

const READ = { buffer: true, offset: true, length: true, position: true }
const WRITE = { offset: true, length: true, position: true }
const READ_FILE = { encoding: true, signal: true }
const WRITE_FILE = { encoding: true, signal: true, flush: true }
const STAT = { bigint: true }

const read = promisify(fs.read) as unknown as <T extends Bytes>(
  fd: number,
  options: FileReadOptions<T>
) => Promise<FileReadResult<T>>
const write = promisify(fs.write) as unknown as (
  fd: number,
  data: unknown,
  ...rest: unknown[]
) => Promise<{ bytesWritten: number; buffer: any }>
const readv = promisify(fs.readv)
const writev = promisify(fs.writev)
const readFile = promisify(fs.readFile)
const writeFile = promisify(fs.writeFile)
const stat = promisify(fs.fstat) as (fd: number, options?: { bigint?: boolean }) => Promise<fs.Stats | fs.BigIntStats>
const truncate = promisify(fs.ftruncate)
const sync = promisify(fs.fsync)
const datasync = promisify(fs.fdatasync)

/**
 * The result of `descriptor.toFile()`.
 *
 * Its methods work as those of Node's `FileHandle`, and reject with the same errors; after `close()` with `ERR_PASSFD_DESCRIPTOR_CLOSED`. All
 * holders of the open file share its offset. With a `position` a method neither uses nor moves the offset (pread(2), pwrite(2)); without one it
 * does both.
 *
 * It lacks the other methods of a `FileHandle`: see `toFile()`.
 *
 * Close it. If it is garbage-collected while open, passfd closes it with a warning, as with a Descriptor.
 */
export class OpenFile implements AsyncDisposable {
  #fd: number
  readonly #kind: string
  #pending = 0
  #closing: Promise<void> | undefined
  #idle: (() => void) | undefined
  #registered = false

  /** @internal It owns `fd`, which the shim holds. Made by `descriptor.toFile()`. */
  constructor(fd: number, kind: string) {
    markUncloneable(this)
    this.#fd = fd
    this.#kind = kind
    settleLater(this)
  }

  /** Reads into a buffer. `bytesRead` 0 is the end of the file. Defaults: a new buffer of 16,384 bytes; all of it; the shared offset. */
  read<T extends Bytes>(
    buffer: T,
    offset?: number | null,
    length?: number | null,
    position?: number | bigint | null
  ): Promise<FileReadResult<T>>
  read<T extends Bytes = Buffer>(buffer: T, options?: FileReadOptions<T>): Promise<FileReadResult<T>>
  read<T extends Bytes = Buffer>(options?: FileReadOptions<T>): Promise<FileReadResult<T>>
  read(first?: any, second?: any, length?: number | null, position?: number | bigint | null): Promise<any> {
    return this.#run(fd => {
      checkNames(ArrayBuffer.isView(first) ? second : first, READ)
      return read(fd, given(readOptions(first, second, length, position)))
    })
  }

  /** Writes, and resolves to the number of written bytes, which may be less than all (write(2)). */
  write<T extends Bytes>(
    buffer: T,
    offset?: number | null,
    length?: number | null,
    position?: number | null
  ): Promise<{ bytesWritten: number; buffer: T }>
  write<T extends Bytes>(buffer: T, options?: FileWriteOptions): Promise<{ bytesWritten: number; buffer: T }>
  write(
    text: string,
    position?: number | null,
    encoding?: BufferEncoding | null
  ): Promise<{ bytesWritten: number; buffer: string }>
  write(data: any, second?: any, third?: any, position?: number | null): Promise<any> {
    return this.#run(fd => {
      if (typeof data === 'string') return write(fd, data, second ?? null, third ?? 'utf8')
      checkNames(second, WRITE)
      if (typeof second === 'object' && second !== null) return write(fd, data, second)
      return write(fd, data, given({ offset: second, length: third, position }))
    })
  }

  /** Reads into several buffers, one after the other (readv(2)). */
  readv(buffers: readonly Bytes[], position?: number): Promise<{ bytesRead: number; buffers: Bytes[] }> {
    return this.#run(fd => readv(fd, buffers, position as number)) as never
  }

  /** Writes from several buffers (writev(2)). */
  writev(buffers: readonly Bytes[], position?: number): Promise<{ bytesWritten: number; buffers: Bytes[] }> {
    return this.#run(fd => writev(fd, buffers, position as number)) as never
  }

  /** Reads from the shared offset to the end. */
  readFile(options?: { encoding?: null; signal?: AbortSignal } | null): Promise<Buffer>
  readFile(options: BufferEncoding | { encoding: BufferEncoding; signal?: AbortSignal }): Promise<string>
  readFile(options?: any): Promise<any> {
    return this.#run(fd => {
      checkNames(options, READ_FILE)
      const { signal } = (typeof options === 'object' && options) || {}
      if (signal?.aborted) throw abortError(signal) // fs.readFile looks at it for paths only
      return readFile(fd, options)
    })
  }

  /** Writes all of `data` at the shared offset. It does not truncate the file. */
  writeFile(data: Data, options?: WriteFileOptions): Promise<void> {
    return this.#run(async fd => {
      checkNames(options, WRITE_FILE)
      if (!isParts(data)) return writeFile(fd, data, options as never) // which refuses what it can't write
      for await (const part of data) await writeFile(fd, part, options as never)
    })
  }

  /** Works as `writeFile`, like a FileHandle's: it appends only if the file was opened for appending. */
  appendFile(data: Data, options?: WriteFileOptions): Promise<void> {
    return this.writeFile(data, options)
  }

  stat(options?: { bigint?: false }): Promise<fs.Stats>
  stat(options: { bigint: true }): Promise<fs.BigIntStats>
  stat(options?: { bigint?: boolean }): Promise<fs.Stats | fs.BigIntStats> {
    return this.#run(fd => {
      checkNames(options, STAT)
      return stat(fd, options ?? {})
    })
  }

  /** Sets the length to `length` bytes, default 0. Added bytes are zeros. */
  truncate(length = 0): Promise<void> {
    return this.#run(fd => truncate(fd, length))
  }

  /** Resolves when all data is on the storage device (fsync(2)). */
  sync(): Promise<void> {
    return this.#run(fd => sync(fd))
  }

  /** Resolves when all data is on the storage device, without metadata that reading doesn't need (fdatasync(2)). */
  datasync(): Promise<void> {
    return this.#run(fd => datasync(fd))
  }

  /** Closes the file when the pending operations have finished. No operation can begin after the call. A second call returns the same promise. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** @internal The turn that made it is over. */
  [SETTLE](): void {
    if (this.#closing !== undefined) return
    this.#registered = true
    register(this, this.#fd, 'OpenFile')
  }

  /** Runs an operation. Its promise keeps this object from being collected meanwhile. */
  async #run<T>(operation: (fd: number) => Promise<T> | T): Promise<T> {
    if (this.#closing !== undefined) throw new PassfdError('DESCRIPTOR_CLOSED', { kind: this.#kind })
    this.#pending++
    try {
      return await operation(this.#fd)
    } finally {
      if (--this.#pending === 0) this.#idle?.()
    }
  }

  async #close(): Promise<void> {
    if (this.#pending > 0)
      await new Promise<void>(resolve => {
        this.#idle = resolve
      })
    if (this.#registered) unregister(this)
    const fd = this.#fd
    this.#fd = -1
    await new Promise<void>((resolve, reject) => {
      closeFile(fd, error => (error ? reject(error) : resolve()))
    })
  }
}
mark(OpenFile, 'OpenFile')

function isParts(data: Data): data is Exclude<Data, string | Uint8Array> {
  if (typeof data !== 'object' || data === null || ArrayBuffer.isView(data)) return false
  return Symbol.iterator in data || Symbol.asyncIterator in data
}

/** Refuses unknown names, which Node ignores. Node itself refuses a value that is no option object. */
function checkNames(options: unknown, known: object): void {
  if (isOptions(options)) checkOptions(options, known)
}

function readOptions(first: any, second: any, length: unknown, position: unknown): object {
  if (first === undefined || first === null) return {}
  if (typeof first === 'object' && !ArrayBuffer.isView(first)) return first
  if (typeof second === 'object' && second !== null) return { ...second, buffer: first }
  return { buffer: first, offset: second, length, position }
}

/** fs.read and fs.write distinguish an option that is undefined or null from a missing one. */
function given(options: object): object {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null))
}
