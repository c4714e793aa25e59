/** Accepts the connections that wait in the queue of a listener, without a watcher. */
import { EINVAL } from '../base/errno.ts'
import { native } from '../os/native.ts'

const BATCH = new Int32Array(256)
/** Of those that wait; the longest queue that Linux allows by default has 4,096. */
const MOST = 65_536

/**
 * Accepts `most` connections at most; `take` gets their held numbers, which are its own from then on. Returns 0, or what has kept it from accepting
 * more (-errno).
 */
export function acceptUpTo(fd: number, most: number, take: (connection: number) => void): number {
  for (let left = most; left > 0; ) {
    const count = native.acceptMany(fd, BATCH, Math.min(left, BATCH.length), null)
    if (count <= 0) return count
    for (const connection of Array.from(BATCH.subarray(0, count))) take(connection) // which may accept itself
    left -= count
  }
  return 0
}

/** Accepts all waiting connections. Returns false if some are left, because there is no descriptor for them. */
export function acceptWaiting(fd: number, take: (connection: number) => void): boolean {
  const error = acceptUpTo(fd, MOST, take)
  // The queue of a listener that was shut down is empty
  return error === 0 || error === EINVAL
}
