/** Closing a file that Node's own functions have worked with. */
import { close } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { closeAside } from './loop.ts'
import { native } from './native.ts'

/**
 * Closes a number that the shim holds, off the event loop. `done` gets the error of close(2) (a network file system's late one), except in
 * worker threads, where `fs.close` warns of numbers that `fs.open` has not given.
 */
export function closeFile(fd: number, done: (error?: Error | null) => void): void {
  if (isMainThread) {
    native.release(fd)
    close(fd, done)
  } else closeAside([fd], () => done(null))
}
