/** /proc, by which Linux opens again what a process has open, and finds a directory by its number. */
import { statSync } from 'node:fs'
import { PassfdError } from '../base/errors.ts'

const OWN = '/proc/self/fd'

/** Returns the path of an open descriptor of this process. `operation` needs it: throws ERR_PASSFD_PROC if /proc is not mounted. */
export function procPath(fd: number, operation: string): string {
  if (isMissing(OWN)) throw new PassfdError('PROC', { operation })
  return `${OWN}/${fd}`
}

/** Whether there is nothing at this path. False if Node's permission model, or the system, does not let this process look. */
export function isMissing(path: string): boolean {
  try {
    statSync(path)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT'
  }
}
