/** The output of workers: the supervisor reads their stdout and stderr by pipes, and cuts it into lines. */
import { EAGAIN } from '../../base/errno.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { Watcher } from '../../os/loop.ts'
import { FAILED, native } from '../../os/native.ts'

export type OutputStream = 'stdout' | 'stderr'

/** The longest line, in bytes. A longer one is cut into lines of this length. */
export const MAX_LINE = 16 * 1024 * 1024
/** Bytes for one read: the default capacity of a pipe (pipe(7)). */
const ROOM = 65536
/** How often a paused pipe is read, in ms: a worker that writes more than a pipe holds blocks for this time at most. */
const TRICKLE = 1000
const NEWLINE = 10

/** Where all reads go; what was read is copied out at once. */
const area = Buffer.allocUnsafeSlow(ROOM)

/** The write ends, which the worker gets. */
export interface WriteEnds {
  readonly stdout: Descriptor
  readonly stderr: Descriptor
}

/** Gets the whole lines of one read, without their newlines. */
export type TakeLines = (stream: OutputStream, lines: readonly Buffer[]) => void

/** The pipes of all workers of a supervisor. */
export class OutputLines {
  readonly #open = new Set<LinePipe>()
  #trickle: NodeJS.Timeout | undefined
  #closed = false

  /** Makes the pipes of a worker. The caller owns the write ends. Throws the system's error if no descriptors are free. */
  begin(take: TakeLines): [WorkerOutput, WriteEnds] {
    const [first, stdout] = this.#pipe(lines => take('stdout', lines))
    try {
      const [second, stderr] = this.#pipe(lines => take('stderr', lines))
      return [new WorkerOutput([first, second]), { stdout, stderr }]
    } catch (error) {
      stdout.close()
      first.close()
      throw error
    }
  }

  /** Reads only as much as one pipe holds, once a second, until `resume()`. */
  pause(): void {
    if (this.#closed || this.#trickle !== undefined) return
    for (const pipe of this.#open) pipe.pause()
    this.#trickle = setInterval(() => {
      for (const pipe of [...this.#open]) pipe.readOnce()
    }, TRICKLE)
    this.#trickle.unref()
  }

  resume(): void {
    if (this.#trickle === undefined) return
    clearInterval(this.#trickle)
    this.#trickle = undefined
    for (const pipe of this.#open) pipe.resume()
  }

  /** Closes the pipes that other processes still hold, after their last lines. */
  close(): void {
    this.#closed = true
    clearInterval(this.#trickle)
    for (const pipe of [...this.#open]) pipe.close()
  }

  #pipe(take: (lines: readonly Buffer[]) => void): [LinePipe, Descriptor] {
    const { readable, writable } = Descriptor.pipe()
    try {
      const pipe = new LinePipe(readable, take, () => this.#open.delete(pipe))
      this.#open.add(pipe)
      if (this.#trickle !== undefined) pipe.pause()
      return [pipe, writable]
    } catch (error) {
      readable.close()
      writable.close()
      throw error
    }
  }
}

/** The output of one worker. */
export class WorkerOutput {
  readonly #pipes: readonly LinePipe[]

  constructor(pipes: readonly LinePipe[]) {
    this.#pipes = pipes
  }

  /**
   * Emits all lines of the ended worker, the last one also without a newline. It does not wait for processes that the worker has left behind: their
   * later lines are emitted as they come.
   */
  finish(): void {
    for (const pipe of this.#pipes) pipe.finish()
  }
}

class LinePipe {
  readonly #readable: Descriptor
  readonly #watcher: Watcher
  readonly #take: (lines: readonly Buffer[]) => void
  readonly #onClose: () => void
  readonly #splitter = new LineSplitter()
  #paused = false

  /** Owns `readable`. */
  constructor(readable: Descriptor, take: (lines: readonly Buffer[]) => void, onClose: () => void) {
    this.#readable = readable
    this.#take = take
    this.#onClose = onClose
    this.#watcher = new Watcher(readable.borrow(), events => this.#wake(events))
  }

  pause(): void {
    this.#paused = true
    this.#watcher.want(false, false)
  }

  resume(): void {
    this.#paused = false
    this.#watcher.want(true, false)
  }

  finish(): void {
    this.#empty()
    if (this.#readable.closed) return
    this.#emit(this.#splitter.end())
    this.#watcher.unref()
  }

  close(): void {
    this.#empty()
    this.#end()
  }

  /** Reads once. Returns how many bytes; 0 if there were none. At the end it closes the pipe. */
  readOnce(): number {
    if (this.#readable.closed) return 0
    const length = native.readNow(this.#readable.borrow(), area, 0, ROOM)
    if (length === EAGAIN) return 0
    if (length > 0) {
      this.#emit(this.#splitter.push(Buffer.from(area.subarray(0, length))))
      return length
    }
    this.#end()
    return 0
  }

  #wake(events: number): void {
    if (!this.#paused || events & FAILED) this.readOnce()
    if (events & FAILED) this.#watcher.want(!this.#paused, false) // the watcher reports nothing more until it is asked
  }

  /** Reads what is in the pipe now, and no more: another process may write for ever. */
  #empty(): void {
    if (this.#readable.closed) return
    // With one more read, which meets the end
    let left = Math.max(0, native.pending(this.#readable.borrow())) + 1
    while (left > 0) {
      const length = this.readOnce()
      if (length === 0) return
      left -= length
    }
  }

  #end(): void {
    if (this.#readable.closed) return
    this.#watcher.end()
    this.#readable.close()
    this.#onClose()
    this.#emit(this.#splitter.end())
  }

  #emit(lines: readonly Buffer[]): void {
    if (lines.length > 0) this.#take(lines)
  }
}

/** Cuts bytes into lines. The lines are views of the chunks, or copies if they stand in several. */
export class LineSplitter {
  readonly #limit: number
  #parts: Buffer[] = []
  #length = 0

  constructor(limit: number = MAX_LINE) {
    this.#limit = limit
  }

  /** Returns the lines that `chunk` completes. The chunk must not be changed afterwards. */
  push(chunk: Buffer): Buffer[] {
    const lines: Buffer[] = []
    let start = 0
    for (;;) {
      const newline = chunk.indexOf(NEWLINE, start)
      const end = newline < 0 ? chunk.length : newline
      while (this.#length + end - start > this.#limit) {
        const cut = start + this.#limit - this.#length
        lines.push(this.#whole(chunk.subarray(start, cut)))
        start = cut
      }
      if (newline < 0) break
      lines.push(this.#whole(chunk.subarray(start, newline)))
      start = newline + 1
    }
    if (start < chunk.length) {
      this.#parts.push(chunk.subarray(start))
      this.#length += chunk.length - start
    }
    return lines
  }

  /** Returns the last line, if it has no newline. */
  end(): Buffer[] {
    return this.#length === 0 ? [] : [this.#whole(Buffer.alloc(0))]
  }

  #whole(last: Buffer): Buffer {
    if (this.#length === 0) return last
    const line = Buffer.concat([...this.#parts, last])
    this.#parts = []
    this.#length = 0
    return line
  }
}
