/** A program in a pseudoterminal, and the screen that a person would see. */
import { spawn } from 'node-pty'

export interface PtyProgram {
  readonly pid: number
  /** The lines of the screen. */
  readonly lines: string[]
  /** Everything that it has written. */
  readonly written: string
  type(keys: string): void
  resize(columns: number, rows: number): void
  /** Resolves when a line of the screen is like that; returns the whole screen. Rejects if the program ends before. */
  shows(pattern: RegExp): Promise<string>
  readonly exit: Promise<{ exitCode: number; signal?: number | undefined }>
  kill(signal: string): void
  /** Closes the terminal, as its window does. */
  close(): void
}

/** For what a screen is to show, in s. */
const LIMIT = 60

export function startInTerminal(
  command: string,
  args: string[],
  { columns = 80, rows = 24, env = {} }: { columns?: number; rows?: number; env?: NodeJS.ProcessEnv } = {}
): PtyProgram {
  const pty = spawn(command, args, { name: 'xterm-256color', cols: columns, rows, env: { ...process.env, ...env } })
  const screen = new Screen()
  const watchers = new Set<() => void>()
  let written = ''
  let ended = false
  const look = (): void => {
    for (const watcher of watchers) watcher()
  }
  pty.onData(text => {
    written += text
    screen.write(text)
    look()
  })
  const exit = new Promise<{ exitCode: number; signal?: number | undefined }>(resolve => pty.onExit(resolve))
  void exit.then(() => {
    ended = true
    look()
  })
  return {
    pid: pty.pid,
    get lines() {
      return screen.lines
    },
    get written() {
      return written
    },
    type: keys => pty.write(keys),
    resize: (columns, rows) => pty.resize(columns, rows),
    shows: pattern =>
      new Promise((resolve, reject) => {
        const watcher = (): void => {
          const isThere = screen.lines.some(line => pattern.test(line))
          if (isThere || ended) settle(isThere, 'it has ended')
        }
        const settle = (isThere: boolean, why: string): void => {
          clearTimeout(timer)
          watchers.delete(watcher)
          const text = screen.lines.join('\n')
          if (isThere) resolve(text)
          else reject(new Error(`it does not show ${pattern}: ${why}\n${text}`))
        }
        const timer = setTimeout(() => settle(false, `not within ${LIMIT} s`), LIMIT * 1000)
        watchers.add(watcher)
        watcher()
      }),
    exit,
    kill: signal => pty.kill(signal),
    close: () => (pty as unknown as { destroy(): void }).destroy()
  }
}

/** As much of a terminal as programs need that move the cursor, write, and erase. It does not know widths of characters. */
class Screen {
  #cells: string[][] = []
  #row = 0
  #column = 0
  #rest = ''

  get lines(): string[] {
    return Array.from(this.#cells, cells => Array.from(cells ?? [], cell => cell ?? ' ').join(''))
  }

  write(text: string): void {
    text = this.#rest + text
    this.#rest = /\x1b(\[[?\d;]*)?$/.exec(text)?.[0] ?? ''
    text = text.slice(0, text.length - this.#rest.length)
    for (const [part, , parameters = '', command] of text.matchAll(/\x1b(\[([?\d;]*)([A-Za-z]))?|[^\x1b]/gu))
      if (command !== undefined) this.#obey(command, parameters)
      else if (part === '\r') this.#column = 0
      else if (part === '\n') this.#row++
      else if (part === '\b') this.#column = Math.max(0, this.#column - 1)
      else if (part >= ' ') this.#line[this.#column++] = part
  }

  get #line(): string[] {
    return (this.#cells[this.#row] ??= [])
  }

  #obey(command: string, parameters: string): void {
    const [row = 1, column = 1] = parameters.split(';').map(Number)
    if (command === 'H') [this.#row, this.#column] = [Math.max(1, row) - 1, Math.max(1, column) - 1]
    else if (command === 'K') this.#line.length = Math.min(this.#line.length, this.#column)
    else if (command === 'J' && parameters === '2') this.#cells = []
    else if (command === 'J') {
      this.#cells.length = Math.min(this.#cells.length, this.#row + 1)
      this.#line.length = Math.min(this.#line.length, this.#column)
    } else if (parameters === '?1049') [this.#cells, this.#row, this.#column] = [[], 0, 0]
  }
}
