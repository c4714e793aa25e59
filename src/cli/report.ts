/** What happens in a program that serves in the foreground: for people a line, for programs a record. */
import { printable, printableJson } from './printable.ts'
import type { Ui } from './ui.ts'

export type Level = 'info' | 'warning' | 'error'

export interface Report {
  readonly event: string
  readonly level: Level
  /** A sentence without its full stop. */
  readonly text: string
  /** Further facts, for a record. */
  readonly facts?: Record<string, unknown>
}

/** Writes it to stderr. `json`: as a line of JSON. */
export function writeReport(ui: Ui, { event, level, text, facts }: Report, json: boolean): void {
  if (json) {
    ui.note(printableJson({ time: new Date().toISOString(), level, event, text, ...facts }))
    return
  }
  const { red, yellow } = ui.err
  const color = level === 'error' ? red : level === 'warning' ? yellow : (text: string) => text
  // A reason of a worker may have several lines, and any characters
  const lines = text.split('\n').map(printable).join('\n  ')
  ui.note(`passfd: ${color(lines)}.`)
}
