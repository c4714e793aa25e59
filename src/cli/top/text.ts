/** Numbers and foreign text for the cells of a terminal. */
import { stripVTControlCharacters } from 'node:util'

/** `2d 04h`, `3h 07m`, `12m 40s`, `9s`. */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000))
  const parts = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
    seconds % 60
  ]
  const first = parts.findIndex(part => part > 0)
  if (first < 0 || first === 3) return `${parts[3]}s`
  return `${parts[first]}${UNITS[first]} ${String(parts[first + 1]).padStart(2, '0')}${UNITS[first + 1]}`
}

const UNITS = 'dhms'

/** `812B`, `85.3M`, `1.2G`. */
export function bytes(count: number): string {
  return scaled(count, 1024, ['B', 'K', 'M', 'G', 'T'])
}

/** `0`, `7.5`, `310`, `12.4k`, `1.2M`. */
export function amount(count: number): string {
  return scaled(count, 1000, ['', 'k', 'M', 'G', 'T'])
}

function scaled(count: number, step: number, units: readonly string[]): string {
  let index = 0
  while (Math.round(count) >= step && index < units.length - 1) {
    count /= step
    index++
  }
  const whole = Number.isInteger(count) || Number(count.toFixed(1)) >= 100
  return `${whole ? Math.round(count) : count.toFixed(1)}${units[index]}`
}

/** `0.4ms`, `120ms`, `3.2s`. */
export function delay(milliseconds: number): string {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)}s`
  return `${milliseconds < 9.95 ? milliseconds.toFixed(1) : Math.round(milliseconds)}ms`
}

/** `12:05:09`, in the time zone of the terminal. */
export function clock(time: number): string {
  const date = new Date(time)
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(part => String(part).padStart(2, '0')).join(':')
}

/** One line without what a terminal obeys, because workers and their errors write what they like. */
export function plain(text: string): string {
  return stripVTControlCharacters(text)
    .replace(/\s+/g, ' ')
    .replace(/[\x00-\x1f\x7f-\x9f]/g, '')
}

/** Bars of the last values, as many as there are cells; the highest is full. */
export function bars(values: readonly number[], cells: number): string {
  const shown = cells > 0 ? values.slice(-cells) : []
  const most = Math.max(...shown, Number.MIN_VALUE)
  return shown.map(value => BARS[Math.round((value / most) * (BARS.length - 1))]).join('')
}

const BARS = [...'▁▂▃▄▅▆▇█']

/** An address of a listener. */
export function address(value: unknown): string {
  const { path, address, port, family } = value as { path?: string; address?: string; port?: number; family?: string }
  if (path !== undefined) return plain(path)
  return family === 'IPv6' ? `[${address}]:${port}` : `${address}:${port}`
}
