/** Checks of arguments, and words about values for the sentences of errors. */

import { PassfdError } from './errors.ts'
import { madeElsewhere } from './package-copy.ts'

export function checkInteger(value: unknown, what: string, min: number, max: number): asserts value is number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
    throw new PassfdError('INVALID_ARGUMENT', {
      what,
      expected: `an integer from ${min} to ${max}`,
      actual: describe(value)
    })
}

export function checkOneOf(value: unknown, what: string, allowed: readonly string[]): void {
  if (!allowed.includes(value as string))
    throw new PassfdError('INVALID_ARGUMENT', {
      what,
      expected: allowed.map(name => `'${name}'`).join(' or '),
      actual: describe(value)
    })
}

/** For what may be one of many things: throws ERR_PASSFD_INVALID_ARGUMENT if another copy of passfd has made it. */
export function checkOwnCopy(value: unknown, what: string, expected: string): void {
  if (madeElsewhere(value) !== undefined)
    throw new PassfdError('INVALID_ARGUMENT', { what, expected, actual: describe(value) })
}

/** A few words about any value, for an error's sentence. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return `'${shown(value)}'`
  if (typeof value === 'object' && value !== null) {
    const elsewhere = madeElsewhere(value)
    return elsewhere === undefined ? `an object (${className(value)})` : `a ${elsewhere.what} of ${elsewhere.by}`
  }
  return typeof value === 'function' ? 'a function' : String(value)
}

/** The beginning of a text, printable. */
export function shown(text: string): string {
  return printable(text.length > 60 ? `${text.slice(0, 60)}…` : text)
}

/** Its control characters and lone surrogates as escapes: a sentence is printed on terminals. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cs}]/gu, found => `\\u{${found.codePointAt(0)!.toString(16)}}`)
}

/** A program's object may throw when it is looked at. */
function className(value: object): string {
  try {
    const { name } = value.constructor ?? {}
    return typeof name === 'string' ? name : 'no class'
  } catch {
    return 'no class'
  }
}

/** Throws ERR_PASSFD_INVALID_ARGUMENT for a path that would be cut off at its NUL, or lead elsewhere because it is no Unicode text. */
export function checkPathText(path: string, what: string): void {
  if (path.includes('\0')) throw invalid(what, 'a path without NUL bytes', path)
  if (hasLoneSurrogate(path)) throw invalid(what, 'a path without lone surrogates', path)
}

export function hasLoneSurrogate(text: string): boolean {
  return /\p{Cs}/u.test(text)
}

/** ERR_PASSFD_INVALID_ARGUMENT: "`what` must be `expected`; it is `actual`". */
export function invalid(what: string, expected: string, actual: unknown): PassfdError {
  return new PassfdError('INVALID_ARGUMENT', { what, expected, actual: describe(actual) })
}

export function checkType(value: unknown, name: string, expected: string, fits: (value: unknown) => boolean): void {
  if (value !== undefined && !(value !== null && fits(value)))
    throw new PassfdError('INVALID_ARGUMENT', { what: `options.${name}`, expected, actual: describe(value) })
}
