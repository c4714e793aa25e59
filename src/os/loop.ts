/** This thread's event loop: it passes a watcher's wake-ups to its listener, and closes descriptors off the loop. */
import { systemError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { available, CLOSED, FAILED, native, READABLE, RESULT_BYTES, RESULT_FIRST, WRITABLE } from './native.ts'

/**
 * Room in AREA in front of the bytes of a read, in bytes. A frame reader copies the kept start of a frame there, so that the whole frame is
 * contiguous. The kept start fits well into 64 KiB, because a body of 16 KiB or more is read into a buffer of its own (LARGE in codec/frame.ts).
 */
export const HEADROOM = 65536
/** The most bytes of small messages that a wake-up reads, about 0.1 ms of work, so that a flooding channel doesn't delay others. */
const BYTES_A_WAKEUP = 16384
/** Watchers read into this area, from HEADROOM on. */
export const AREA = Buffer.allocUnsafeSlow(HEADROOM + BYTES_A_WAKEUP)
/**
 * The results of such a read; see RESULT_… in native.ts. The shim asks for twice MAX_RIGHTS, though the kernel gives the descriptors of one
 * sendmsg(2) a read.
 */
export const RESULTS = new Int32Array(RESULT_FIRST + 2 * MAX_RIGHTS)
const batch = new Int32Array(1024)

/** Receives the wake-ups of a watcher. */
export interface WatchListener {
  onEvents(events: number): void
}

/** By a watcher's id. */
const listeners: (WatchListener | undefined)[] = []
const closings = new Map<number, (count: number) => void>()
let nextClosing = 1

if (available) native.setup(AREA, HEADROOM, RESULTS, dispatch)

/** What the shim calls: for a wake-up of the watcher `id`, or for a batch that is closed (see CLOSED). */
export function dispatch(id: number, events: number): void {
  if (events === CLOSED) {
    const done = closings.get(id)
    closings.delete(id)
    done?.(RESULTS[RESULT_BYTES]!)
  } else listeners[id]?.onEvents(events)
}

/** Returns the watcher's id. `reads`: as in `native.watch`. */
export function watch(fd: number, reads: boolean, listener: WatchListener): number {
  const id = native.watch(fd, reads)
  if (id < 0) throw systemError(id, 'epoll_ctl')
  listeners[id] = listener
  return id
}

/** Ends a watcher. Call it before the descriptor is closed or given away, because epoll(7) would still report it. */
export function unwatch(id: number): void {
  listeners[id] = undefined
  native.unwatch(id)
}

/**
 * Watches a descriptor and reports READABLE, WRITABLE and FAILED. After FAILED it reports nothing more until `want` is called again; a call on
 * the descriptor then gives the error. It begins with READABLE wanted. The caller still owns `fd`.
 */
export class Watcher {
  #id: number
  /** What the shim was told last. A call that changes nothing would still take the descriptor out of epoll(7) and add it again. */
  #wanted: number = READABLE

  constructor(fd: number, listener: (events: number) => void) {
    const onEvents = (events: number): void => {
      if (events & FAILED) this.#wanted = 0
      listener(events)
    }
    this.#id = watch(fd, false, { onEvents })
  }

  /** False after `end`. */
  get active(): boolean {
    return this.#id !== 0
  }

  want(readable: boolean, writable: boolean): void {
    const wanted = (readable ? READABLE : 0) | (writable ? WRITABLE : 0)
    if (this.#id === 0 || wanted === this.#wanted) return
    if (native.interest(this.#id, wanted) >= 0) this.#wanted = wanted
  }

  /** Removes it from the loop at once. */
  end(): void {
    if (this.#id !== 0) unwatch(this.#id)
    this.#id = 0
  }

  /** Keeps the process running while it is active (the default). */
  ref(): void {
    if (this.#id !== 0) native.ref(this.#id)
  }

  unref(): void {
    if (this.#id !== 0) native.unref(this.#id)
  }
}

/** Closes the numbers off the event loop, as `discard` does, and keeps the process running until it has called `done`. */
export function closeAside(fds: readonly number[], done: () => void): void {
  const waiting = setInterval(() => {}, 0x7fffffff)
  discard(fds, () => {
    clearInterval(waiting)
    done()
  })
}

/** Closes numbers on a helper thread, and calls `done` with how many were closed. It does not keep the process running. */
export function discard(fds: readonly number[], done?: (count: number) => void): void {
  for (let at = 0; at < fds.length; at += batch.length) {
    const count = Math.min(batch.length, fds.length - at)
    for (let i = 0; i < count; i++) batch[i] = fds[at + i]!
    let tag = 0
    if (done !== undefined) {
      tag = nextClosing
      nextClosing = nextClosing === 0x7fffffff ? 1 : nextClosing + 1
      closings.set(tag, done)
    }
    if (native.closeLater(batch, 0, count, tag) < 0) closeHere(count, tag)
  }
}

/** Closes what the helper threads can't be given, because there is no memory for it: this may block, but nothing stays open. */
function closeHere(count: number, tag: number): void {
  const closed = native.closeMany(batch, 0, count)
  const done = closings.get(tag)
  closings.delete(tag)
  if (done !== undefined) setImmediate(done, closed).unref()
}

/** Closes numbers whose close(2) cannot block, on this thread. Returns how many were closed. */
export function closeNow(fds: readonly number[]): number {
  let closed = 0
  for (let at = 0; at < fds.length; at += batch.length) {
    const count = Math.min(batch.length, fds.length - at)
    for (let i = 0; i < count; i++) batch[i] = fds[at + i]!
    closed += native.closeMany(batch, 0, count)
  }
  return closed
}

/** Closes a listener off the loop, because that may block. Resolves when its name is free, or after `timeout` ms. */
export function closeListener(fd: number, timeout: number): Promise<void> {
  return new Promise(resolve => {
    const timer = setTimeout(resolve, timeout)
    discard([fd], () => {
      clearTimeout(timer)
      resolve()
    })
  })
}
