/** What a command writes, and where: results on stdout, all else on stderr. */
import type { Readable } from 'node:stream'
import type { Argument, Command, Option } from 'commander'
import picocolors from 'picocolors'

/** A terminal has `isTTY` and `columns`. */
export interface Output {
  write(text: string | Uint8Array): unknown
  /** How many bytes wait for the reader. */
  writableLength?: number
  isTTY?: boolean
  columns?: number
  rows?: number
}

export interface Streams {
  stdin: Readable & { isTTY?: boolean }
  stdout: Output
  stderr: Output
  env: Record<string, string | undefined>
}

export type Colors = ReturnType<typeof picocolors.createColors>

/** A command line, without `$ `, and what it does. */
export type Example = readonly [line: string, what: string]

const streamsOf = new WeakMap<Command, Streams>()
const examplesOfCommand = new WeakMap<Command, readonly Example[]>()
/** Nobody needs progress of what is done sooner, in ms. */
const PROGRESS_AFTER = 1000

/** Gives a program other streams than the process's. Call it before commands are registered, because they inherit the settings. */
export function useStreams(program: Command, streams: Streams): void {
  streamsOf.set(program, streams)
  program.configureOutput({
    writeOut: text => void streams.stdout.write(text),
    writeErr: text => void streams.stderr.write(text),
    outputError: () => {}, // main.ts writes it
    getOutHasColors: () => hasColors(streams.stdout, streams.env),
    getErrHasColors: () => hasColors(streams.stderr, streams.env),
    getOutHelpWidth: () => streams.stdout.columns ?? 80,
    getErrHelpWidth: () => streams.stderr.columns ?? 80
  })
}

/** Colours are off without a terminal, with NO_COLOR (https://no-color.org), and with TERM=dumb. */
export function hasColors(output: Output, env: Streams['env']): boolean {
  return output.isTTY === true && (env.NO_COLOR ?? '') === '' && env.TERM !== 'dumb'
}

/** Writes examples at the end of the help of a command. A test runs them. */
export function examples(command: Command, ...list: Example[]): void {
  examplesOfCommand.set(command, list)
  command.addHelpText('after', () => {
    const lines = list.map(([line, what]) => `  # ${what}\n  $ ${line}`)
    return `\nExamples:\n${lines.join('\n')}`
  })
}

export function examplesOf(command: Command): readonly Example[] {
  return examplesOfCommand.get(command) ?? []
}

const offered = new WeakMap<Option | Argument, readonly string[]>()

/** Makes shells offer these words for a value; others may be right, too. */
export function offer(to: Option | Argument, words: readonly string[]): void {
  offered.set(to, words)
}

export function offersFor(value: Option | Argument): readonly string[] | undefined {
  return value.argChoices ?? offered.get(value)
}

/** The streams of a command, with what commands need of them. */
export class Ui {
  readonly streams: Streams
  /** Whether the command was called with `--json`. */
  readonly json: boolean
  /** Colours for stdout. */
  readonly out: Colors
  /** Colours for stderr. */
  readonly err: Colors

  constructor(command: Command) {
    let root = command
    while (root.parent !== null) root = root.parent
    this.streams = streamsOf.get(root) ?? process
    this.json = command.opts().json === true
    const { stdout, stderr, env } = this.streams
    this.out = picocolors.createColors(hasColors(stdout, env))
    this.err = picocolors.createColors(hasColors(stderr, env))
  }

  /** Writes a result: with `--json` the value as one line, else the text. */
  result(value: unknown, text: string): void {
    this.print(this.json ? JSON.stringify(value) : text)
  }

  /** Writes a line of the result to stdout. */
  print(line: string): void {
    this.streams.stdout.write(line.endsWith('\n') ? line : `${line}\n`)
  }

  /** Writes a line to stderr. */
  note(line: string): void {
    this.streams.stderr.write(line.endsWith('\n') ? line : `${line}\n`)
  }

  /**
   * Waits for `work`. When that takes longer than a second and stderr is a terminal, `text` and the seconds stand there meanwhile, and what `detail`
   * resolves to: it is called each time. `after`: the time before it is shown, and from one to the next, in ms.
   */
  async progress<T>(
    text: string,
    work: Promise<T>,
    detail?: () => Promise<string>,
    after = PROGRESS_AFTER
  ): Promise<T> {
    const { stderr, env } = this.streams
    if (stderr.isTTY !== true || env.TERM === 'dumb') return work
    const started = performance.now()
    let [shown, over, more] = [false, false, '']
    const draw = (): void => {
      if (over) return
      shown = true
      const seconds = Math.round((performance.now() - started) / 1000)
      const line = `${text} … ${seconds} s${more === '' ? '' : `: ${more}`}`
      // A line that wraps could not be erased
      stderr.write(`\r\x1b[K${line.slice(0, (stderr.columns ?? 80) - 1)}`)
    }
    const timer = setInterval(() => {
      draw()
      detail?.().then(
        said => {
          more = said
          draw()
        },
        () => {} // `work` fails, too
      )
    }, after)
    try {
      return await work
    } finally {
      over = true
      clearInterval(timer)
      if (shown) stderr.write('\r\x1b[K')
    }
  }
}
