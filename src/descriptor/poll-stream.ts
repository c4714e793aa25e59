/** A stream on a pipe or terminal that other processes may share. It never blocks, and never changes the shared O_NONBLOCK. */

import type { DuplexOptions } from 'node:stream'
import { ContextDuplex } from '../base/context-duplex.ts'
import { EAGAIN, ECANCELED, EIO } from '../base/errno.ts'
import { checked, PassfdError, systemError } from '../base/errors.ts'
import { mark } from '../base/package-copy.ts'
import { closeAside, Watcher } from '../os/loop.ts'
import { FAILED, native, READABLE, WRITABLE } from '../os/native.ts'

export interface PollStreamOptions extends Directions {
  kind: 'pipe' | 'tty'
}

interface Directions {
  readable: boolean
  writable: boolean
}

/** Bytes for one read: the default capacity of a pipe (pipe(7)). */
const ROOM = 65536
/** So many writes for one wake-up, so that a fast reader does not hold up the loop. */
const ROUNDS = 16
const MASTER = 1
const O_NONBLOCK = 0o4000

/** Where all reads go; what was read is copied out at once. */
const area = Buffer.allocUnsafeSlow(ROOM)

/**
 * Reads and writes a pipe or terminal as a Duplex. The loop only reports when it is readable or writable; `readNow` and `writeNow` never block.
 * If these can't work on `fd` itself, passfd opens the file a second time (a terminal, a named pipe), as libuv does for terminals. A
 * pseudoterminal's master can't be opened twice, so passfd makes it non-blocking for all its holders.
 *
 * It owns `fd`, which the shim holds, once the constructor has returned.
 */
export class PollStream extends ContextDuplex {
  #fd: number
  /** The number for reads and writes: `#fd`, or the same file opened a second time. */
  #working: number
  readonly #kind: 'pipe' | 'tty'
  readonly #isMaster: boolean
  readonly #watcher: Watcher
  #wantsReadable = false
  #wantsWritable = false
  #chunks: readonly Uint8Array[] = []
  /** What of the first chunk has left. */
  #offset = 0
  #written: ((error?: Error | null) => void) | undefined
  /** The last wake-up reported an error, and neither a read nor a write has returned that error yet. */
  #failedBefore = false

  constructor(fd: number, { kind, readable, writable }: PollStreamOptions) {
    const options: DuplexOptions & Directions = { readable, writable, allowHalfOpen: false, highWaterMark: ROOM }
    super(options)
    this.#fd = fd
    this.#kind = kind
    this.#isMaster = kind === 'tty' && native.terminalSide(fd) === MASTER
    this.#working = this.#isMaster ? makeNonblocking(fd) : workingNumber(fd, kind)
    try {
      this.#watcher = new Watcher(this.#working, events => this.#wake(events))
      this.#watcher.want(false, false)
    } catch (error) {
      if (this.#working !== fd) native.close(this.#working)
      throw error
    }
  }

  /** @internal The number, which stays this stream's; -1 once it is destroyed. */
  get number(): number {
    return this.#fd
  }

  /**
   * @internal Ends the stream without closing its descriptor. The caller then owns the number, which the shim holds, and the bytes that were
   * read and not consumed. All written bytes must have been sent: the callback of `stream.write('', callback)` reports that.
   * @throws `ERR_PASSFD_STREAM_BUSY`, and changes nothing, if bytes are still to be written, if the stream is destroyed, or if it has an
   * encoding (`setEncoding`): then the unread bytes, or those of half a character, are not known.
   */
  release(): { fd: number; unread: Buffer } {
    const reason = this.#busyReason()
    if (reason !== undefined) throw new PassfdError('STREAM_BUSY', { reason })
    this.pause()
    this.removeAllListeners('data') // read() would give them what is the caller's
    this.removeAllListeners('readable')
    this.#watcher.end()
    const chunks: Buffer[] = []
    for (let chunk: Buffer | null; (chunk = this.read()) !== null; ) chunks.push(chunk)
    const fd = this.#fd
    if (this.#working !== fd) native.close(this.#working)
    this.#fd = this.#working = -1
    this.destroy()
    return { fd, unread: Buffer.concat(chunks) }
  }

  /** Keeps the process running while it waits (the default). */
  ref(): this {
    this.#watcher.ref()
    return this
  }

  unref(): this {
    this.#watcher.unref()
    return this
  }

  override _read(): void {
    this.#want(true, this.#wantsWritable)
  }

  override _write(chunk: Buffer, _: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#begin([chunk], callback)
  }

  override _writev(entries: { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    this.#begin(
      entries.map(({ chunk }) => chunk),
      callback
    )
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#watcher.end() // before any close: epoll(7)
    const written = this.#written
    this.#written = undefined
    const numbers = [...new Set([this.#fd, this.#working])].filter(number => number >= 0)
    this.#fd = this.#working = -1
    const done = (): void => {
      written?.(error ?? systemError(ECANCELED, 'write'))
      callback(error)
    }
    // A serial line's close waits for its output to leave
    if (numbers.length > 0 && this.#kind === 'tty') closeAside(numbers, done)
    else {
      for (const number of numbers) native.close(number)
      done()
    }
  }

  #busyReason(): string | undefined {
    if (this.#fd < 0) return 'it is destroyed'
    if (this.writableLength > 0) return `${this.writableLength} bytes are still to be written`
    return this.readableEncoding === null ? undefined : 'what was read is decoded already (setEncoding)'
  }

  #want(readable: boolean, writable: boolean): void {
    if (readable === this.#wantsReadable && writable === this.#wantsWritable) return
    this.#wantsReadable = readable
    this.#wantsWritable = writable
    this.#watcher.want(readable, writable)
  }

  #wake(events: number): void {
    const failed = (events & FAILED) !== 0
    let told = false
    if (failed ? this.#wantsWritable : events & WRITABLE) told = this.#flush()
    if (!this.destroyed && (failed ? this.#wantsReadable : events & READABLE)) told = this.#receive() || told
    if (!failed || this.destroyed) {
      this.#failedBefore = false
      return
    }
    // It would wake us for ever
    if (!told && this.#failedBefore) this.destroy(systemError(EIO, 'poll'))
    else this.#watcher.want(this.#wantsReadable, this.#wantsWritable) // the watcher reports nothing more until it is asked
    this.#failedBefore = !told
  }

  /** False if there was nothing, not even the end. */
  #receive(): boolean {
    const length = native.readNow(this.#working, area, 0, ROOM)
    if (length === EAGAIN) return false // another process has read it
    if (length > 0) {
      if (!this.push(Buffer.from(area.subarray(0, length)))) this.#want(false, this.#wantsWritable)
    } else if (length === 0 || (length === EIO && this.#isMaster)) {
      // A master whose slaves are all closed fails with EIO (not documented in pty(7)): that is its end of file
      this.#want(false, this.#wantsWritable)
      this.push(null)
    } else this.destroy(systemError(length, 'read'))
    return true
  }

  #begin(chunks: readonly Uint8Array[], written: (error?: Error | null) => void): void {
    this.#chunks = chunks
    this.#offset = 0
    this.#written = written
    this.#flush()
  }

  /** Writes as much as possible at once, and waits for the rest. Returns false if it wrote nothing. */
  #flush(): boolean {
    let index = 0
    let went = false
    for (let round = 0; round < ROUNDS && index < this.#chunks.length; round++) {
      const chunk = this.#chunks[index]!
      const length =
        this.#offset === chunk.length ? 0 : native.writeNow(this.#working, chunk, this.#offset, chunk.length)
      if (length < 0 && length !== EAGAIN) {
        this.#finish(systemError(length, 'write'))
        return true
      }
      if (length === EAGAIN) break
      went = true
      this.#offset += length
      if (this.#offset < chunk.length) continue
      index++
      this.#offset = 0
    }
    this.#chunks = this.#chunks.slice(index)
    if (this.#chunks.length === 0) this.#finish()
    else this.#want(this.#wantsReadable, true)
    return went
  }

  #finish(error?: Error): void {
    const written = this.#written
    this.#written = undefined
    this.#chunks = []
    this.#want(this.#wantsReadable, false)
    written?.(error)
  }
}
mark(PollStream, 'PollStream')

function makeNonblocking(fd: number): number {
  checked(native.nonblocking(fd, true), 'fcntl')
  return fd
}

/** `fd` itself if reading and writing it never waits; otherwise a description of our own. */
function workingNumber(fd: number, kind: 'pipe' | 'tty'): number {
  const opened = native.reopen(fd)
  if (opened > 0) return opened
  // Without one, two processes that use the same pipe may block each other for a moment; the user of a terminal may block this one for ever
  if (opened < 0 && kind === 'tty' && (checked(native.statusFlags(fd), 'fcntl') & O_NONBLOCK) === 0)
    throw new PassfdError('DESCRIPTOR_SHARED', { kind }, { cause: systemError(opened, 'open', `/proc/self/fd/${fd}`) })
  return fd
}
