/** The last lines of the workers' output, for a subscriber of the admin channel that comes later. */
import type { WorkerInfo } from '../control/worker-info.ts'
import type { OutputStream } from './output-lines.ts'

/** How many lines are kept, of all workers together, and of how many bytes. */
export const MOST_LINES = 1000
const MOST_BYTES = 1024 * 1024
/** What is kept of one line, in bytes. */
const MAX_LINE = 64 * 1024

/** A line that was kept. */
export interface KeptLine {
  readonly worker: Omit<WorkerInfo, 'channel'>
  readonly stream: OutputStream
  /** When it was read, in ms since 1970. */
  readonly time: number
  /** Its first bytes: a copy. */
  readonly line: Buffer
  /** How many bytes it had, if they are not all there. */
  readonly length: number | undefined
}

/** Where the bytes of a line are: `start` counts all bytes that were ever written, and the gaps at the end of the area. */
interface Entry extends Omit<KeptLine, 'line' | 'length'> {
  readonly start: number
  readonly kept: number
  readonly length: number
}

export class LastLines {
  /** The lines' bytes, one after the other. The newest lines overwrite the oldest ones. It takes memory as far as it was written to. */
  readonly #area = Buffer.allocUnsafeSlow(MOST_BYTES)
  readonly #entries = new Array<Entry | undefined>(MOST_LINES)
  /** How many lines there were. */
  #count = 0
  #end = 0
  #info: WorkerInfo | undefined
  #worker: KeptLine['worker'] | undefined

  /** Keeps a copy of the line. */
  add(info: WorkerInfo, stream: OutputStream, line: Buffer): void {
    if (info !== this.#info) {
      const { channel, ...worker } = info // a channel would keep its buffers after the worker's end
      this.#info = info
      this.#worker = worker
    }
    const kept = Math.min(line.length, MAX_LINE)
    const left = MOST_BYTES - (this.#end % MOST_BYTES)
    if (kept > left) this.#end += left
    const start = this.#end
    line.copy(this.#area, start % MOST_BYTES, 0, kept)
    this.#end += kept
    const worker = this.#worker!
    this.#entries[this.#count++ % MOST_LINES] = { worker, stream, time: Date.now(), start, kept, length: line.length }
  }

  /** Returns the last lines, at most so many, the oldest first. */
  last(count: number): KeptLine[] {
    const found: KeptLine[] = []
    for (let index = Math.max(0, this.#count - Math.min(count, MOST_LINES)); index < this.#count; index++) {
      const { worker, stream, time, start, kept, length } = this.#entries[index % MOST_LINES]!
      if (start < this.#end - MOST_BYTES) continue // it is overwritten
      const at = start % MOST_BYTES
      const line = Buffer.from(this.#area.subarray(at, at + kept))
      found.push({ worker, stream, time, line, length: length > kept ? length : undefined })
    }
    return found
  }
}
