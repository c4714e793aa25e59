import type { ExecutionContext } from 'ava'

/** Returns what moves `performance.now()` forward, until the test ends. Timers keep their time. */
export function movableTime(t: ExecutionContext): (milliseconds: number) => void {
  const { now } = performance
  let passed = 0
  performance.now = () => now.call(performance) + passed
  t.teardown(() => {
    performance.now = now
  })
  return milliseconds => {
    passed += milliseconds
  }
}
