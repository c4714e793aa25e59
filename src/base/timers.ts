import { checkInteger } from './check.ts'

/** The longest time limit, in ms: a timer of Node's holds no more. */
export const MAX_TIMEOUT = 0x7fffffff

/**
 * Whether a timer keeps the process running. Under jsdom, where test runners put a window's timers in the place of Node's, one is a
 * number: that keeps nothing.
 */
export function keepAlive(timer: NodeJS.Timeout | undefined, on: boolean): void {
  if (typeof timer !== 'object') return
  if (on) timer.ref()
  else timer.unref()
}

/** A time limit in ms as users give it, from `least` on, or its preset. Throws ERR_PASSFD_INVALID_ARGUMENT; `what` is how that calls it. */
export function time(value: number | undefined, what: string, preset: number, least: number): number {
  if (value === undefined) return preset
  checkInteger(value, what, least, MAX_TIMEOUT)
  return value
}
