/** systemd's watchdog (`WatchdogSec=`, sd_watchdog_enabled(3)): the manager ends a service whose event loop does not turn any more. */
import { asError } from '../base/errors.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { ping } from './notify.ts'

/** Pings that are being sent. */
export interface Watchdog extends Disposable {
  /** The time within which the manager wants a ping, in ms. passfd sends one in each half of it. */
  readonly interval: number
  /** Sends no more pings. The manager then ends this process after `interval`, unless the service stops before. */
  stop(): void
}

/**
 * Pings the service manager while the event loop of this process turns, if the unit has `WatchdogSec=`. It does not keep the process running. Returns
 * false where the manager wants no pings of this process (no WATCHDOG_USEC, or a WATCHDOG_PID of another one).
 */
export function watchdog(): Watchdog | false {
  const interval = intervalIn(process.env)
  if (interval === undefined) return false
  let failed = false
  let isUnderWay = false
  // While the manager does not read, one ping waits for it
  const send = async (): Promise<void> => {
    if (isUnderWay) return
    isUnderWay = true
    try {
      await ping()
      failed = false
    } catch (error) {
      if (!failed) process.emitWarning(`The watchdog of the service manager gets no pings: ${asError(error).message}`)
      failed = true
    }
    isUnderWay = false
  }
  void send()
  const timer = setInterval(send, Math.min(interval / 2, MAX_TIMEOUT)).unref()
  const stop = (): void => clearInterval(timer)
  return { interval, stop, [Symbol.dispose]: stop }
}

/** The time in ms that the variables of a service give this process; undefined if its manager wants no pings. */
export function intervalIn({ WATCHDOG_USEC, WATCHDOG_PID, NOTIFY_SOCKET }: NodeJS.ProcessEnv): number | undefined {
  const microseconds = /^\d+$/.test(WATCHDOG_USEC ?? '') ? Number(WATCHDOG_USEC) : 0
  if (!NOTIFY_SOCKET || !Number.isSafeInteger(microseconds) || microseconds === 0) return undefined
  if (WATCHDOG_PID !== undefined && Number(WATCHDOG_PID) !== process.pid) return undefined
  return microseconds / 1000
}
