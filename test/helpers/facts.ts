/** What the kernel says of descriptors (proc_pid_fdinfo(5)). */
import { closeSync, constants, fstatSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import type { Descriptor } from '../../src/index.ts'
import { openDescriptors } from './test.ts'

const O_CLOEXEC = 0o2000000

function statusFlags(fd: number): number {
  return Number.parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))![1]!, 8)
}

/** Of a pidfd's process, as this pid namespace calls it; -1: it was collected (pidfd_open(2)). */
export function pidOf(pidfd: number): number {
  return Number(/^Pid:\t(-?\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd}`, 'latin1'))![1])
}

export function isCloseOnExec(fd: number): boolean {
  return (statusFlags(fd) & O_CLOEXEC) !== 0
}

export function isNonBlocking(fd: number): boolean {
  return (statusFlags(fd) & constants.O_NONBLOCK) !== 0
}

/** Whether a number is open at all. */
export function isOpen(fd: number): boolean {
  return openDescriptors().has(fd)
}

/** Whether anything in this process still watches the file with this inode: also through a number that was closed since (epoll(7)). */
export function watchedInode(inode: number): boolean {
  return readdirSync('/proc/self/fd').some(fd => {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`) !== 'anon_inode:[eventpoll]') return false
      const info = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')
      return [...info.matchAll(/^tfd:.* ino:([0-9a-f]+)/gm)].some(([, ino]) => Number.parseInt(ino!, 16) === inode)
    } catch {
      return false // the descriptor that readdir itself used
    }
  })
}

/** Two descriptors of the same file, pipe or socket have the same. */
export function identity(fd: number): string {
  const { dev, ino } = fstatSync(fd, { bigint: true })
  return `${dev}:${ino} ${readlinkSync(`/proc/self/fd/${fd}`)}`
}

/** A number that is not open; nothing else may open one before it is used. */
export function closedNumber(): number {
  const fd = openSync('/dev/null', 'r')
  closeSync(fd)
  return fd
}

/** Where a TCP listener listens. */
export async function addressOf(listener: Descriptor): Promise<AddressInfo> {
  const server = await listener.dup().toServer()
  const address = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return address
}
