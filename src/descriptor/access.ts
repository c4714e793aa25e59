/** How a descriptor was opened: its access mode and its file status flags, both from one fcntl(2) F_GETFL. */

import { constants } from 'node:fs'
import { checked } from '../base/errors.ts'
import { native } from '../os/native.ts'

/** Which of read(2) and write(2) the open mode allows. The kernel never changes it for an open file. */
export type Access = 'read' | 'write' | 'read-write' | 'none'

/** The file status flags of open(2), by what they do. */
export interface OpenFlags {
  /** Every write goes to the end of the file (O_APPEND). */
  readonly append: boolean
  /** A read or write fails with EAGAIN instead of blocking (O_NONBLOCK). Regular files ignore it. */
  readonly nonblocking: boolean
  /** A write returns after the storage device has the data (O_SYNC or O_DSYNC). */
  readonly sync: boolean
  /** Of a file: reads and writes bypass the page cache and need aligned buffers. Of a pipe: it keeps packets apart (O_DIRECT). */
  readonly direct: boolean
  /** The descriptor names a place in the file system, and can be neither read nor written (O_PATH). */
  readonly path: boolean
}

const O_ACCMODE = 3
const O_PATH = 0x200000 // not in Node's constants
const { O_APPEND, O_DIRECT, O_DSYNC, O_NONBLOCK, O_SYNC } = constants
/** By the two bits of O_ACCMODE. The kernel keeps 3 for files that allow ioctl(2) only (open(2)). */
const ACCESSES: readonly Access[] = ['read', 'write', 'read-write', 'none']

export function accessOf(fd: number): Access {
  const flags = statusFlags(fd)
  return (flags & O_PATH) !== 0 ? 'none' : ACCESSES[flags & O_ACCMODE]!
}

export function flagsOf(fd: number): OpenFlags {
  const flags = statusFlags(fd)
  return {
    append: (flags & O_APPEND) !== 0,
    nonblocking: (flags & O_NONBLOCK) !== 0,
    sync: (flags & (O_SYNC | O_DSYNC)) !== 0,
    direct: (flags & O_DIRECT) !== 0,
    path: (flags & O_PATH) !== 0
  }
}

function statusFlags(fd: number): number {
  return checked(native.statusFlags(fd), 'fcntl', String(fd))
}
