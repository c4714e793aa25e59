/** The output of workers, line by line: to the terminal with the worker's slot and pid, as it is, or as JSON lines; or to a file. */
import { isUtf8 } from 'node:buffer'
import type { Supervisor, WorkerInfo } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { hasColors, type Output, type Streams } from '../ui.ts'
import { countOf } from '../words.ts'
import { fileTarget, isSame, outputTarget, Sink, standardTarget } from './sink.ts'

export type OutputStream = 'stdout' | 'stderr'
export type OutputWorker = Pick<WorkerInfo, 'slot' | 'id' | 'pid'>

export interface OutputOptions {
  /**
   * `'text'`: lines of stdout go to stdout, those of stderr to stderr. A terminal gets `slot pid | ` in front of each, other readers get them as the
   * worker has written them. `'json'`: a record a line, all of them to stdout.
   */
  readonly format?: 'text' | 'json' | undefined
  /** Gets all lines instead of stdout and stderr, in the format. */
  readonly file?: string | undefined
  readonly streams: Streams
  /** Reports trouble, a sentence without its full stop: a log file that can't be written, lines that were dropped. */
  report(text: string): void
}

/** What waits to be written, in bytes: from `pause` on the workers' pipes are read slowly until `resume`, from `most` on new lines are dropped. */
const LIMITS = { pause: 16 * 1024 * 1024, resume: 4 * 1024 * 1024, most: 256 * 1024 * 1024 }

/**
 * Writes the lines of a supervisor's workers (its option `spawn.stdio` is `'lines'`), and opens the log file again at USR1. Call it before the
 * supervisor starts, and `close()` when it has stopped. Rejects if the file can't be opened.
 */
export async function writeLines(
  supervisor: Pick<Supervisor, 'on' | 'off' | 'pauseLines' | 'resumeLines'>,
  options: OutputOptions
): Promise<WorkerLog> {
  const log = await WorkerLog.open(options, supervisor)
  const onLine = (worker: WorkerInfo, stream: OutputStream, line: Buffer): void => log.line(worker, stream, line)
  // Without a listener the signal would start Node's inspector
  const onSignal = (): void => void log.reopen()
  supervisor.on('line', onLine)
  process.on('SIGUSR1', onSignal)
  log.onClose = () => {
    supervisor.off('line', onLine)
    process.off('SIGUSR1', onSignal)
  }
  return log
}

export class WorkerLog {
  readonly #render: Record<OutputStream, Renderer>
  readonly #file: string | undefined
  readonly #sinks: Record<OutputStream, Sink>
  readonly #options: OutputOptions
  readonly #pausable: Pick<Supervisor, 'pauseLines' | 'resumeLines'>
  readonly #limits: typeof LIMITS
  #paused = false
  #dropped = 0
  onClose = (): void => {}

  /** `pausable`: is paused while too much waits to be written. */
  static async open(
    options: OutputOptions,
    pausable: Pick<Supervisor, 'pauseLines' | 'resumeLines'>,
    limits = LIMITS
  ): Promise<WorkerLog> {
    const log = new WorkerLog(options, pausable, limits)
    if (options.file !== undefined) await log.#sinks.stdout.change(await openLog(options.file))
    return log
  }

  private constructor(
    options: OutputOptions,
    pausable: Pick<Supervisor, 'pauseLines' | 'resumeLines'>,
    limits: typeof LIMITS
  ) {
    const { format = 'text', file, streams } = options
    this.#options = options
    this.#pausable = pausable
    this.#limits = limits
    this.#file = file
    const rendererOf = (output: Output): Renderer => {
      if (format === 'json') return asRecord
      return file === undefined && output.isTTY === true ? prefixed(hasColors(output, streams.env)) : plain
    }
    this.#render = { stdout: rendererOf(streams.stdout), stderr: rendererOf(streams.stderr) }
    this.#sinks = this.#open(format)
  }

  line(worker: OutputWorker, stream: OutputStream, line: Buffer): void {
    if (this.#dropped > 0 || this.#queued > this.#limits.most) this.#dropped++
    else this.#sinks[stream].write(this.#render[stream](worker, stream, line))
    if (this.#queued > this.#limits.pause) this.#pause()
  }

  /** Opens the log file again, because it was renamed: each line is whole, in the old file or in the new one. On failure it writes to the old one on. */
  async reopen(): Promise<void> {
    if (this.#file === undefined) return
    try {
      await this.#sinks.stdout.change(await openLog(this.#file))
    } catch (error) {
      this.#options.report(`${(error as Error).message}, so the old file is written on`)
    }
  }

  /** Writes what waits. Gives up a stream that nobody reads. */
  async close(): Promise<void> {
    this.onClose()
    this.#sayDropped()
    const lost = await Promise.all(Object.values(this.#sinks).map(sink => sink.close()))
    const count = lost.reduce((sum, lines) => sum + lines, 0)
    if (count > 0) this.#options.report(`Lost, because they could not be written: ${countOf(count, 'line')} of workers`)
  }

  #open(format: 'text' | 'json'): Record<OutputStream, Sink> {
    const { file, streams } = this.#options
    const events = (name: string) => ({
      onQueued: () => this.#onQueued(),
      onTrouble: (error?: NodeJS.ErrnoException) =>
        this.#options.report(
          error === undefined ? `${name} can be written again` : `${name} can't be written (${error.code})`
        )
    })
    if (file !== undefined) {
      const sink = new Sink({ write: async () => 0, close: async () => {} }, true, events(file))
      return { stdout: sink, stderr: sink }
    }
    const sinkOf = (name: OutputStream): Sink => {
      if (streams[name] !== process[name]) return new Sink(outputTarget(streams[name]), false, events(name))
      const stream = process[name]
      if (!stream.listeners('error').includes(ignore)) stream.on('error', ignore)
      const { target, isFile } = standardTarget(name === 'stdout' ? 1 : 2)
      return new Sink(target, isFile, events(name))
    }
    const stdout = sinkOf('stdout')
    // One sink keeps the lines of both whole
    const together = format === 'json' || (streams.stderr === process.stderr && isSame(1, 2))
    return { stdout, stderr: together ? stdout : sinkOf('stderr') }
  }

  get #queued(): number {
    const { stdout, stderr } = this.#sinks
    return stdout.queued + (stderr === stdout ? 0 : stderr.queued)
  }

  #pause(): void {
    if (this.#paused) return
    this.#paused = true
    this.#pausable.pauseLines()
  }

  #onQueued(): void {
    if (this.#queued > this.#limits.resume) return
    this.#sayDropped()
    if (!this.#paused) return
    this.#paused = false
    this.#pausable.resumeLines()
  }

  #sayDropped(): void {
    if (this.#dropped === 0) return
    this.#options.report(`${this.#dropped} lines of workers were dropped, because nobody read them for too long`)
    this.#dropped = 0
  }
}

/** EPIPE of a note, after the reader of the stream has ended. */
function ignore(): void {}

/** Makes what is written of a line, with its newline. `time`: when it was read, in ms since 1970; default now. */
type Renderer = (worker: OutputWorker, stream: OutputStream, line: Buffer, time?: number) => Buffer

const NEWLINE = Buffer.from('\n')
const RESET = Buffer.from('\x1b[0m\n')
const ESCAPE = 0x1b
const BRACE = 0x7b
/** Cyan, yellow, green, magenta, blue, bright cyan: red is the bar of stderr. */
const SLOT_COLORS = [36, 33, 32, 35, 34, 96]
const RED = 31

export const plain: Renderer = (_, __, line) => Buffer.concat([line, NEWLINE])

/** `slot pid | ` in front of each line. */
export function prefixed(colors: boolean): Renderer {
  return ({ slot, pid = 0 }, stream, line) => {
    const who = `${slot} ${pid}`
    const prefix = colors
      ? `\x1b[${SLOT_COLORS[slot % SLOT_COLORS.length]}m${who}\x1b[0m ${stream === 'stderr' ? `\x1b[${RED}m|\x1b[0m` : '|'} `
      : `${who} | `
    // A colour that the line leaves on would be the next prefix's
    return Buffer.concat([Buffer.from(prefix), line, line.includes(ESCAPE) ? RESET : NEWLINE])
  }
}

/**
 * A record with `time`, `slot`, `id`, `pid` and `stream`. A line that is a JSON object stands in it unchanged, as `json`. Another one is its
 * `text`; if that is no UTF-8, `bytes` has it in base64, too.
 */
export const asRecord: Renderer = ({ slot, id, pid }, stream, line, time = Date.now()) => {
  const facts = JSON.stringify({ time: new Date(time).toISOString(), slot, id, pid, stream }).slice(0, -1)
  const valid = isUtf8(line)
  if (valid && isObject(line)) return Buffer.concat([Buffer.from(`${facts},"json":`), line, Buffer.from('}\n')])
  const text = JSON.stringify(line.toString())
  const bytes = valid ? '' : `,"bytes":"${line.toString('base64')}"`
  return Buffer.from(`${facts},"text":${text}${bytes}}\n`)
}

function isObject(line: Buffer): boolean {
  if (line[0] !== BRACE) return false
  try {
    JSON.parse(line.toString())
    return true
  } catch {
    return false
  }
}

async function openLog(path: string): Promise<Awaited<ReturnType<typeof fileTarget>>> {
  try {
    return await fileTarget(path)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new CommandError(EXIT.cantCreate, `${path} can't be opened (${code})`, 'Check --log-file', { cause })
  }
}
