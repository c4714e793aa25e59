/** Whether, and when, a worker that died is replaced: a pure function of the deaths so far. */

import { checkInteger } from '../../base/check.ts'
import { type KnownOptions, readOptions } from '../../base/known-options.ts'

/** The end of a worker that ended on its own. */
export interface Death {
  /** Whether it had become ready. */
  readonly booted: boolean
  /** The time from its start to its end, in ms. */
  readonly uptime: number
  /** When it ended, in ms of a clock that never goes back (`performance.now()`). */
  readonly at: number
  readonly slot: number
}

/** `delay`: the time in ms until the replacement starts. `reason`: a sentence for logs. */
export type Decision = { restart: true; delay: number } | { restart: false; reason: string }

/**
 * Decides when to replace the worker of the newest of `deaths`. These are the deaths of all slots, oldest first, with at least the last 16 of
 * each slot. `now`: as `Death.at`.
 */
export type RestartPolicy = (deaths: readonly Death[], now: number) => Decision

export interface RestartOptions {
  /** Sets the delay between the first early death in a slot and the next start, in ms. Each further death doubles it. Default 100. */
  initialDelay?: number
  /** Limits the delay, in ms. Default 30,000, or `initialDelay` if that is more. */
  maxDelay?: number
  /** Replaces a worker at once, and forgets earlier deaths, if the worker was ready and lived for this many ms. Default 10,000. */
  stableAfter?: number
  /**
   * Gives a slot up after this many deaths before being ready, without a worker in between that lived for `stableAfter`. Default 10 (50 s with
   * the default delays), at most 16; 0: no limit.
   */
  maxBootFailures?: number
  /**
   * Forgets earlier deaths after this many ms without a death. Default 300,000; must be more than `maxDelay` and the time to become ready. 0:
   * never.
   */
  window?: number
}

const RESTART_OPTIONS = {
  initialDelay: true,
  maxDelay: true,
  stableAfter: true,
  maxBootFailures: true,
  window: true
} as const satisfies KnownOptions<RestartOptions>

const MAX = 0x7fffffff
/** The deaths of a slot that callers keep. */
const REMEMBERED = 16

/**
 * Makes the default policy. It doubles the delay of a slot with each early death, and gives up a slot whose workers can't start.
 * @throws `ERR_PASSFD_INVALID_ARGUMENT`
 */
export function restartPolicy(options: RestartOptions = {}): RestartPolicy {
  const { initialDelay, maxDelay, stableAfter, maxBootFailures, window } = checkedOptions(options)
  const isStable = ({ booted, uptime }: Death): boolean => booted && uptime >= stableAfter
  /** The deaths since the last stable worker, or since the last `forgetAfter` without a death, newest first. */
  const streak = (deaths: readonly Death[]): Death[] => {
    const found: Death[] = []
    for (const death of deaths.toReversed()) {
      const newer = found.at(-1)
      if (isStable(death) || (window > 0 && newer !== undefined && newer.at - death.at > window)) break
      found.push(death)
    }
    return found
  }
  return (deaths, now) => {
    const newest = deaths.at(-1)
    if (newest === undefined || isStable(newest)) return { restart: true, delay: 0 }
    const early = streak(deaths.filter(({ slot }) => slot === newest.slot))
    const bootFailures = early.filter(({ booted }) => !booted).length
    if (!newest.booted && maxBootFailures > 0 && bootFailures >= maxBootFailures)
      return {
        restart: false,
        reason: `${bootFailures} workers in a row ended before they were ready (maxBootFailures)`
      }
    const delay = Math.min(initialDelay * 2 ** Math.min(early.length - 1, 31), maxDelay)
    const passed = now - newest.at
    return { restart: true, delay: passed > 0 ? Math.max(delay - passed, 0) : delay }
  }
}

function checkedOptions(given: RestartOptions): Required<RestartOptions> {
  const options = readOptions(given, RESTART_OPTIONS)
  const { initialDelay = 100, stableAfter = 10_000, maxBootFailures = 10, window = 300_000 } = options
  checkInteger(initialDelay, 'options.initialDelay', 1, MAX)
  const { maxDelay = Math.max(initialDelay, 30_000) } = options
  checkInteger(maxDelay, 'options.maxDelay', initialDelay, MAX)
  checkInteger(stableAfter, 'options.stableAfter', 1, MAX)
  checkInteger(maxBootFailures, 'options.maxBootFailures', 0, REMEMBERED)
  checkInteger(window, 'options.window', 0, MAX)
  return { initialDelay, maxDelay, stableAfter, maxBootFailures, window }
}
