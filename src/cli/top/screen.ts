/** A terminal whose whole screen a command draws on. It gets the terminal back as it was. */
import { emitKeypressEvents } from 'node:readline'
import type { ReadStream, WriteStream } from 'node:tty'
import * as ansi from 'ansi-escapes'
import stringWidth from 'string-width'
import type { Key } from './keys.ts'
import type { Size } from './picture.ts'

/** Of a terminal that does not report its size. */
const USUAL: Size = { columns: 80, rows: 24 }

export interface ScreenOwner {
  onKey(key: Key): void
  onResize(): void
}

export class Screen {
  readonly #stdin: ReadStream
  readonly #stdout: WriteStream
  readonly #owner: ScreenOwner
  #shown: readonly string[] = []
  #open = false

  constructor(stdin: ReadStream, stdout: WriteStream, owner: ScreenOwner) {
    this.#stdin = stdin
    this.#stdout = stdout
    this.#owner = owner
  }

  get size(): Size {
    return { columns: this.#stdout.columns || USUAL.columns, rows: this.#stdout.rows || USUAL.rows }
  }

  /** Takes the terminal: until `close()` keys come as they are pressed. */
  open(): void {
    if (this.#open) return
    this.#open = true
    this.#shown = []
    emitKeypressEvents(this.#stdin)
    this.#stdin.setRawMode(true)
    this.#stdin.on('keypress', this.#onKey)
    this.#stdin.resume()
    this.#stdout.on('resize', this.#onResize)
    // A fault of the program must not be printed onto a screen that disappears
    process.on('uncaughtExceptionMonitor', this.close)
    process.on('exit', this.close)
    this.#stdout.write(`${ansi.enterAlternativeScreen}${ansi.cursorHide}${ansi.eraseScreen}`)
  }

  /** Gives it back. */
  readonly close = (): void => {
    if (!this.#open) return
    this.#open = false
    process.off('uncaughtExceptionMonitor', this.close)
    process.off('exit', this.close)
    this.#stdout.off('resize', this.#onResize)
    this.#stdin.off('keypress', this.#onKey)
    this.#stdin.setRawMode(false)
    this.#stdin.pause()
    this.#stdout.write(`${ansi.cursorShow}${ansi.exitAlternativeScreen}`)
  }

  /** Writes the lines that have changed, because the way to the terminal may be slow. */
  show(lines: readonly string[]): void {
    if (!this.#open) return
    const { columns } = this.size
    let text = ''
    for (const [row, line] of lines.entries()) {
      if (line === this.#shown[row]) continue
      // Behind a full line the cursor is still on the last cell, which would be erased
      text += `${ansi.cursorTo(0, row)}${line}${stringWidth(line) < columns ? ansi.eraseEndLine : ''}`
    }
    this.#shown = lines
    if (text !== '') this.#stdout.write(ansi.synchronizedOutput(text))
  }

  readonly #onKey = (sequence: string | undefined, key: Key | undefined): void => {
    this.#owner.onKey({ ...key, sequence })
  }

  readonly #onResize = (): void => {
    this.#shown = []
    this.#stdout.write(ansi.eraseScreen)
    this.#owner.onResize()
  }
}
