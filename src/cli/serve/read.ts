/** Reads values of options, as text of a command line or as values of a configuration. A reader throws a text: what it expects. */
import type { BindSpec } from '../../index.ts'

/** Returns the value. Throws an Expected. */
export type Reader<T> = (given: unknown) => T

export class Expected extends Error {}

export const flag: Reader<boolean> = given => {
  if (typeof given !== 'boolean') throw new Expected('true or false')
  return given
}

export const text: Reader<string> = given => {
  if (typeof given !== 'string' || given === '') throw new Expected('a text')
  return given
}

/** One, or a list. */
export const texts: Reader<string[]> = given => {
  const list = typeof given === 'string' ? [given] : given
  if (!Array.isArray(list) || list.some(each => typeof each !== 'string'))
    throw new Expected('a text or a list of texts')
  return list
}

/** Variables: text, numbers and booleans by name. */
export const variables: Reader<Record<string, string>> = given => {
  const expected = 'an object of texts'
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw new Expected(expected)
  return Object.fromEntries(
    Object.entries(given).map(([name, value]) => {
      if (!['string', 'number', 'boolean'].includes(typeof value)) throw new Expected(expected)
      return [name, String(value)]
    })
  )
}

export function count(least: number, most: number): Reader<number> {
  return given => {
    const value = typeof given === 'string' && /^\d+$/.test(given) ? Number(given) : given
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most) return value
    throw new Expected(`an integer from ${least.toLocaleString('en')} to ${most.toLocaleString('en')}`)
  }
}

export function oneOf<T extends string>(...list: readonly T[]): Reader<T> {
  return given => {
    if (list.includes(given as T)) return given as T
    throw new Expected(`${list.slice(0, -1).join(', ')} or ${list.at(-1)}`)
  }
}

const TIME_UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const SIZE_UNITS: Record<string, number> = { K: 1024, M: 1024 ** 2, G: 1024 ** 3, T: 1024 ** 4 }
const MOST = Number.MAX_SAFE_INTEGER
/** The longest time of a timer. */
const LONGEST = 0x7fffffff

/**
 * In ms: '90s', '1h30m', '0'; or a number. Text needs a unit, because other tools mean seconds or milliseconds without one. `least`, `most`: in ms,
 * as the library limits it.
 */
export function time(least: 0 | 1, most = LONGEST): Reader<number> {
  return given => {
    const expected = 'a time with its unit: 500ms, 30s, 10m, 1h or 1h30m'
    const value = typeof given === 'number' ? given : milliseconds(given)
    if (value === undefined) throw new Expected(expected)
    if (value < least && value >= 0) throw new Expected('a time from 1ms on')
    if (value > most) throw new Expected('a time of at most 24d')
    return whole(value, typeof given === 'number' ? `${expected}, or a number of milliseconds` : expected)
  }
}

function milliseconds(given: unknown): number | undefined {
  if (given === '0') return 0
  if (typeof given !== 'string' || !/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(given)) return undefined
  const parts = given.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)
  return Math.round([...parts].reduce((sum, [, number, unit]) => sum + Number(number) * TIME_UNITS[unit!]!, 0))
}

/** In bytes: '300M', '1.5G', '512KiB'; or a number. */
export const size: Reader<number> = given => {
  const expected = 'a size with its unit: 300M or 1.5G'
  if (typeof given === 'number' && given !== 0) return whole(given, `${expected}, or a number of bytes`)
  const [, number, unit] = (typeof given === 'string' && /^(\d+(?:\.\d+)?)([KMGT])(?:i?B)?$/i.exec(given)) || []
  if (number === undefined || Number(number) === 0) throw new Expected(expected)
  return whole(Math.round(Number(number) * SIZE_UNITS[unit!.toUpperCase()]!), expected)
}

function whole(value: number, expected: string): number {
  if (Number.isInteger(value) && value >= 0 && value <= MOST) return value
  throw new Expected(expected)
}

/** A number, or 'max': undefined, the library's default of one for each processor. */
export const workers: Reader<number | 'max'> = given => {
  if (given === 'max') return 'max'
  try {
    return count(1, 1024)(given)
  } catch {
    throw new Expected('a number from 1 to 1,024, or max')
  }
}

/** Listeners by name: texts `NAME=ADDRESS`, or an object of addresses. */
export const listeners: Reader<Record<string, BindSpec>> = given => {
  if (typeof given === 'object' && given !== null && !Array.isArray(given))
    return Object.fromEntries(Object.entries(given).map(([name, address]) => [checkedName(name), addressOf(address)]))
  const all = texts(given).map(each => {
    const [, name, address] = /^([^=]+)=(.+)$/s.exec(each) ?? []
    if (name === undefined) throw new Expected('NAME=PORT, NAME=HOST:PORT or NAME=PATH (a path contains "/")')
    return [checkedName(name), addressOf(address)] as const
  })
  if (new Set(all.map(([name]) => name)).size < all.length) throw new Expected('listeners of different names')
  return Object.fromEntries(all)
}

/** As the library checks it. */
function checkedName(name: string): string {
  if (/^[\x20-\x39\x3b-\x7e]{1,255}$/.test(name) && name !== '__proto__') return name
  throw new Expected('listeners whose names have 1 to 255 printable ASCII characters without a colon')
}

/** A port, 'HOST:PORT', '[IPv6]:PORT', a path (with "/"), or what the library takes. */
export function addressOf(given: unknown): BindSpec {
  if (typeof given === 'object' && given !== null) return given as BindSpec // the library checks it
  const text = String(given)
  if (text.includes('/')) return { path: text }
  const [, bracketed, host, port] = /^(?:(?:\[([^\]]+)\]|([^:]+)):)?(\d{1,5})$/.exec(text) ?? []
  if (port === undefined || Number(port) > 65535)
    throw new Expected('a port, HOST:PORT, [IPv6]:PORT, or a path (which contains "/")')
  const name = bracketed ?? host
  return name === undefined ? { port: Number(port) } : { host: name, port: Number(port) }
}
