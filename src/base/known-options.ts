/** Option objects: every name that is not known is refused, with the nearest one that is. */
import { types } from 'node:util'
import { describe } from './check.ts'
import { PassfdError } from './errors.ts'

/**
 * All options of an object. It is written as `{ … } satisfies KnownOptions<Options>`, so that TypeScript reports an option of the
 * interface that is missing here. `'method'`: it is called as a method of the object that it was given in.
 */
export type KnownOptions<Options> = Record<keyof Options, true | 'method'>

/**
 * Reads an option object, each option once, into a new object. So all later readers get the same values, also if a getter or the program changes
 * an option. It leaves out options that are undefined, and ignores names that are symbols.
 * @throws `ERR_PASSFD_INVALID_ARGUMENT` for a value that is not an object, and for an unknown name. `what`: the object's name in errors.
 */
export function readOptions<Options extends object>(
  given: Options,
  known: KnownOptions<Options>,
  what = 'options',
  others: object = known
): Options {
  checkOptions(given, known, what, others)
  const read: Record<string, unknown> = {}
  for (const name of Object.keys(known)) {
    const value = (given as Record<string, unknown>)[name]
    if (value === undefined) continue
    const isMethod = known[name as keyof Options] === 'method' && typeof value === 'function'
    read[name] = isMethod ? value.bind(given) : value
  }
  return read as Options
}

/** Checks the names only, for a call that reads each option once itself. `others`: further names that a typo may have meant. */
export function checkOptions(given: unknown, known: object, what = 'options', others: object = known): void {
  if (!isOptions(given))
    throw new PassfdError('INVALID_ARGUMENT', { what, expected: 'an object', actual: describe(given) })
  for (const name in given) if (!Object.hasOwn(known, name) && !isFromRoot(given, name)) refuse(name, what, others)
}

/** False for objects that are no options and were passed in their place: a list, a Promise that was not awaited, bytes, a Map. */
export function isOptions(given: unknown): given is object {
  if (typeof given !== 'object' || given === null || Array.isArray(given) || ArrayBuffer.isView(given)) return false
  return !(
    types.isPromise(given) ||
    types.isMap(given) ||
    types.isSet(given) ||
    types.isDate(given) ||
    types.isRegExp(given) ||
    types.isNativeError(given) ||
    types.isAnyArrayBuffer(given) ||
    types.isBoxedPrimitive(given)
  )
}

/** It was added to Object.prototype, of this realm or of the object's own. */
function isFromRoot(given: object, name: string): boolean {
  let owner: object | null = given
  while (owner !== null && !Object.hasOwn(owner, name)) owner = Object.getPrototypeOf(owner)
  return owner !== null && owner !== given && Object.hasOwn(owner, 'hasOwnProperty')
}

function refuse(name: string, what: string, known: object): never {
  const names = Object.keys(known)
  const nearest = nearestOf(name, names)
  const hint = nearest === undefined ? `. Known are: ${names.join(', ')}.` : `: did you mean '${nearest}'?`
  throw new PassfdError('INVALID_ARGUMENT', { what, option: describe(name), hint }, { sentence: 'UNKNOWN_OPTION' })
}

/** The name that is the fewest typing errors away, if these are not more than two fifths of it. */
function nearestOf(name: string, names: readonly string[]): string | undefined {
  let nearest: string | undefined
  let least = Number.POSITIVE_INFINITY
  for (const each of names) {
    const errors = distance(name.slice(0, 64).toLowerCase(), each.toLowerCase())
    if (errors >= least || errors > Math.max(1, Math.floor(Math.max(name.length, each.length) * 0.4))) continue
    least = errors
    nearest = each
  }
  return nearest
}

/** Letters left out, added, changed, or two that changed places (optimal string alignment). */
function distance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let least = Math.min(row[j - 1]! + 1, last[j]! + 1, last[j - 1]! + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) least = Math.min(least, before[j - 2]! + 1)
      row.push(least)
    }
    before = last
    last = row
  }
  return last[b.length]!
}
