/**
 * The memory of large bodies. V8 frees those that were collected together, 32 MiB at a time, and glibc returns such free memory to the kernel. Each page of
 * the next bodies then costs a page fault. So the shim keeps the end of the heap while large bodies come (`native.target`), and passfd releases it each second.
 */
import { clearInterval, setInterval } from 'node:timers'
import { native } from './native.ts'

/** From so many bytes on `native.target` keeps the heap. */
export const LARGE_TARGET = 16_384
/** How long free memory is kept at most, in ms. */
const PERIOD = 1000

let timer: NodeJS.Timeout | undefined
let used = false

/** Called for each body of LARGE_TARGET bytes or more that is about to be received. */
export function largeBodyComes(): void {
  used = true
  timer ??= setInterval(release, PERIOD).unref()
}

function release(): void {
  native.releaseHeap()
  if (!used) {
    clearInterval(timer)
    timer = undefined
  }
  used = false
}
