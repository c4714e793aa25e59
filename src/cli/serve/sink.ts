/** Where lines are written: a file, or a standard stream. It never blocks the process, writes whole lines in order, and survives what can fail. */
import { close, fstatSync, open, writev } from 'node:fs'
import { setTimeout as later } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Descriptor } from '../../index.ts'
import type { Output } from '../ui.ts'

/** What a sink writes to. */
export interface Target {
  /** Resolves to how many bytes it took. */
  write(chunks: readonly Buffer[]): Promise<number>
  close(): Promise<void>
}

export interface SinkEvents {
  /** The number of waiting bytes has changed. */
  onQueued(): void
  /** Writing has failed, and the sink tries again. `undefined`: it works again. */
  onTrouble(error: NodeJS.ErrnoException | undefined): void
}

/** Chunks of one write (IOV_MAX is 1024, writev(2)), and their bytes. */
const MOST_CHUNKS = 512
const MOST_BYTES = 1024 * 1024
/** The time until a failed write is repeated, in ms. */
const RETRY = 1000
/** How long `close()` waits for a write that makes no progress, in ms. */
const LAST_WORDS = 2000
/** The reader is gone for ever. */
const GONE: readonly unknown[] = ['EPIPE', 'ECONNRESET', 'ERR_STREAM_DESTROYED', 'EIO']

export class Sink {
  #target: Target
  readonly #isFile: boolean
  readonly #events: SinkEvents
  /** Each is a whole line with its newline. */
  #queue: Buffer[] = []
  /** How many bytes of the first one are written. */
  #written = 0
  #bytes = 0
  #next: { target: Target; done: () => void } | undefined
  #running: Promise<void> | undefined
  #gone = false
  #closing = false
  /** The last write has failed. */
  #hopeless = false
  /** Repeats a failed write now. */
  #retry = (): void => {}
  #trouble = false

  /** `isFile`: a failed write is repeated, because the disk may have room later. Otherwise an error is the end of the reader. */
  constructor(target: Target, isFile: boolean, events: SinkEvents) {
    this.#target = target
    this.#isFile = isFile
    this.#events = events
  }

  /** Bytes that wait to be written. */
  get queued(): number {
    return this.#bytes
  }

  /** Nobody reads any more; lines are dropped. */
  get gone(): boolean {
    return this.#gone
  }

  write(line: Buffer): void {
    if (this.#gone || this.#closing) return
    this.#queue.push(line)
    this.#bytes += line.length
    this.#start()
  }

  /** Writes to `target` from the next line on, and closes the old one. Resolves when that is done. */
  async change(target: Target): Promise<void> {
    if (this.#closing) return target.close()
    await new Promise<void>(done => {
      const before = this.#next
      this.#next = { target, done }
      if (before !== undefined) void before.target.close().then(before.done)
      this.#start()
      this.#retry()
    })
  }

  /** Writes what waits, for as long as that makes progress, and closes the target. Resolves to how many lines were not written. */
  async close(): Promise<number> {
    if (this.#closing) return 0
    this.#closing = true
    let left = this.#bytes
    this.#retry() // the last time
    while (this.#running !== undefined) {
      const timer = new AbortController()
      const over = later(LAST_WORDS, true, timer).catch(() => true)
      const stuck = await Promise.race([this.#running.then(() => false), over])
      timer.abort()
      if (stuck && this.#bytes === left) break
      left = this.#bytes
    }
    const lost = this.#queue.length
    this.#gone = true
    this.#bytes = 0
    await this.#target.close().catch(() => {})
    this.#next?.done()
    await this.#next?.target.close().catch(() => {})
    return lost
  }

  #start(): void {
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined
      const waits = this.#next !== undefined || this.#queue.length > 0
      if (waits && !this.#gone && !this.#hopeless) this.#start()
    })
  }

  async #run(): Promise<void> {
    await null // lines of one turn are written together
    for (;;) {
      if (this.#next !== undefined) await this.#change(this.#next)
      if (this.#queue.length === 0 || this.#gone) return
      try {
        this.#took(await this.#target.write(this.#batch()))
        this.#setTrouble(undefined)
      } catch (error) {
        if (this.#next !== undefined) continue
        if (!(await this.#failed(error as NodeJS.ErrnoException))) return
      }
    }
  }

  /** What was written of a line stays in the old file; the new one gets the whole line. */
  async #change({ target, done }: { target: Target; done: () => void }): Promise<void> {
    this.#next = undefined
    const old = this.#target
    this.#target = target
    this.#bytes += this.#written
    this.#written = 0
    await old.close().catch(() => {})
    done()
  }

  /** Resolves to whether it is to be tried again. */
  async #failed(error: NodeJS.ErrnoException): Promise<boolean> {
    if (this.#gone) return false
    if (!this.#isFile) {
      this.#gone = true
      this.#queue = []
      this.#bytes = 0
      if (!GONE.includes(error.code)) this.#setTrouble(error)
      this.#events.onQueued()
      return false
    }
    this.#setTrouble(error)
    if (this.#closing) {
      this.#hopeless = true
      return false
    }
    await new Promise<void>(resolve => {
      this.#retry = resolve
      setTimeout(resolve, RETRY).unref()
    })
    return true
  }

  #setTrouble(error: NodeJS.ErrnoException | undefined): void {
    const before = this.#trouble
    this.#trouble = error !== undefined
    if (this.#trouble !== before) this.#events.onTrouble(error)
  }

  #batch(): Buffer[] {
    const first = this.#queue[0]!
    const chunks = [this.#written === 0 ? first : first.subarray(this.#written)]
    let bytes = chunks[0]!.length
    for (let i = 1; i < this.#queue.length && i < MOST_CHUNKS && bytes < MOST_BYTES; i++) {
      chunks.push(this.#queue[i]!)
      bytes += this.#queue[i]!.length
    }
    return chunks
  }

  #took(bytes: number): void {
    this.#bytes -= bytes
    let rest = this.#written + bytes
    let lines = 0
    while (lines < this.#queue.length && rest >= this.#queue[lines]!.length) rest -= this.#queue[lines++]!.length
    this.#queue.splice(0, lines)
    this.#written = rest
    this.#events.onQueued()
  }
}

const STREAMS: readonly string[] = ['pipe', 'tty', 'tcp', 'unix-stream']
const opened = promisify(open)
const closed = promisify(close)

/** A file, written at its end: so its lines stay whole if two servers write to it during a takeover. Rejects with the system's error. */
export async function fileTarget(path: string): Promise<Target> {
  return numberTarget(await opened(path, 'a', 0o640), true)
}

/** A standard stream of this process, by its number. */
export function standardTarget(fd: 1 | 2): { target: Target; isFile: boolean } {
  const descriptor = Descriptor.from(fd)
  if (STREAMS.includes(descriptor.kind)) return { target: descriptorTarget(descriptor), isFile: false }
  descriptor.close()
  return { target: numberTarget(fd, false), isFile: true }
}

/** A pipe, terminal or socket, whose reader may be slow. Not Node's own stream: that blocks, or leaves O_NONBLOCK set for other processes. */
export function descriptorTarget(descriptor: Descriptor): Target {
  const stream = descriptor.toWritable()
  let failure: Error | undefined
  stream.on('error', error => {
    failure = error
  })
  return {
    write: async chunks => {
      const all = Buffer.concat(chunks)
      await new Promise<void>((resolve, reject) => {
        if (failure !== undefined) reject(failure)
        else stream.write(all, error => (error === null || error === undefined ? resolve() : reject(error)))
      })
      return all.length
    },
    close: async () => {
      stream.destroy()
    }
  }
}

/** Another object that lines are written to: of a test, for example. */
export function outputTarget(output: Output): Target {
  return {
    write: async chunks => {
      const all = Buffer.concat(chunks)
      output.write(all)
      return all.length
    },
    close: async () => {}
  }
}

/** Whether both are the same terminal, pipe or file. */
export function isSame(one: number, other: number): boolean {
  try {
    const [first, second] = [fstatSync(one), fstatSync(other)]
    return first.dev === second.dev && first.ino === second.ino
  } catch {
    return false
  }
}

function numberTarget(fd: number, owned: boolean): Target {
  return {
    write: chunks =>
      new Promise((resolve, reject) => {
        writev(fd, chunks, null, (error, bytes) => (error === null ? resolve(bytes) : reject(error)))
      }),
    close: async () => {
      if (owned) await closed(fd)
    }
  }
}
