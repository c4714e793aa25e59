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
