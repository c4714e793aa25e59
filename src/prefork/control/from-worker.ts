/** Checks the messages of workers: a worker may run the code of an attacker, so the supervisor uses no field before its check. */
import { describe } from '../../base/check.ts'
import type { FromWorker } from './control.ts'

/** The most bytes of a message's body that the supervisor accepts. Larger ones cost it CPU time. */
export const MAX_BODY = 64 * 1024
/** The most characters of a text in a message that the supervisor keeps. */
const MAX_TEXT = 4096
/** Errors of system calls are from -4095 to -1. */
const LEAST_ERRNO = -4095

type Check = readonly [expected: string, fits: (value: unknown) => boolean]

const NAME: Check = ['a string of 1 to 255 characters', value => isText(value, 255) && value !== '']
const YES_OR_NO: Check = ['true or false', value => typeof value === 'boolean']
const COUNT: Check = ['an integer from 0', isCount]
const AMOUNT: Check = ['a number from 0', value => Number.isFinite(value) && (value as number) >= 0]
const GRANT: Check = ['undefined or an integer from 1', value => value === undefined || (isCount(value) && value > 0)]

/** The fields of each message. The control line checks `join`, `idle` and `failed` itself. */
const FIELDS: Record<string, Record<string, Check>> = {
  uses: { name: NAME, adopts: YES_OR_NO, exposed: optional(YES_OR_NO), grant: GRANT },
  leaves: { name: NAME, grant: GRANT },
  handsOver: { gives: YES_OR_NO, inherits: YES_OR_NO },
  beat: {
    connections: COUNT,
    requests: COUNT,
    lag: AMOUNT,
    inspector: ['undefined or an address', value => value === undefined || isText(value, MAX_TEXT)]
  },
  closed: { count: COUNT },
  accepted: {
    name: NAME,
    count: COUNT,
    taken: COUNT,
    error: [
      'undefined or the error of a system call',
      value =>
        value === undefined || (Number.isInteger(value) && (value as number) < 0 && (value as number) >= LEAST_ERRNO)
    ]
  }
}
const CHECKS = new Map(Object.entries(FIELDS).map(([type, fields]) => [type, Object.entries(fields)]))

/** Returns what is wrong with the message, as a sentence about the worker; undefined if nothing is. Unknown types are not its business. */
export function faultIn(message: FromWorker): string | undefined {
  const fields = message as unknown as Record<string, unknown>
  for (const [field, [expected, fits]] of CHECKS.get(message.type) ?? [])
    if (!fits(fields[field]))
      return `it has sent a message ${message.type} whose ${field} is ${describe(fields[field])} instead of ${expected}`
  if (message.type === 'accepted' && message.taken > message.count)
    return `it has accepted ${message.taken} connections of ${message.count}`
  return undefined
}

/** The beginning of a text of a worker; of any other value, a few words. */
export function wordsOf(value: unknown): string {
  if (typeof value !== 'string') return describe(value)
  return value.length <= MAX_TEXT ? value : `${value.slice(0, MAX_TEXT)}…`
}

function optional([expected, fits]: Check): Check {
  return [`undefined or ${expected}`, value => value === undefined || fits(value)]
}

function isText(value: unknown, most: number): value is string {
  return typeof value === 'string' && value.length <= most
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
