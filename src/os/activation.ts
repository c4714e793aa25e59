/** Descriptors that a service manager has given this process at its start: systemd's socket activation, sd_listen_fds(3). */
import { closeSync, fstatSync, readlinkSync, statfsSync } from 'node:fs'
import { shown } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { available, native } from './native.ts'

/** One of them. The shim holds the number. */
export interface Passed {
  readonly name: string
  readonly fd: number
  /** Returns the number, which the caller owns then. It uses up a Descriptor that was made of the number meanwhile. */
  take(): number
  /** Whether another part of the program owns the number, or has closed it. */
  isGone(): boolean
}

/** SD_LISTEN_FDS_START. */
const FIRST = 3
const VARIABLES = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const
/** Linux's own limit for open files of a process (fs.nr_open). */
const MOST = 1 << 20
/** statfs(2) of a pidfd, from Linux 6.9 on: its inode number is the process's for ever. */
const PIDFS_MAGIC = 0x50494446
/** Copies of passfd whose native parts are different files know it. */
const GIVEN: unique symbol = Symbol.for('passfd.activation') as never
const DIGITS = /^\d+$/
/** As many names as an error lists. */
const MOST_NAMES = 20
/** The name of those without one, as sd_listen_fds_with_names(3) has it. */
const UNKNOWN = 'unknown'

/**
 * Holds the numbers that the variables name, makes each close-on-exec, and removes the variables unless `keep`. Returns none if there are no variables, or
 * if they name another process, for example a parent from which this one inherited them: then it keeps them. Throws ERR_PASSFD_ACTIVATION if they are
 * wrong, and holds nothing.
 */
function takePassed(keep: boolean): { name: string; fd: number }[] {
  if (!isForUs(process.env)) return []
  // A worker thread has a copy of the environment, and `keep` leaves it to another copy of passfd. The numbers in it may be other files' by now
  const owner = process as { [GIVEN]?: true }
  if (owner[GIVEN] === true || native.activation(true) < 0)
    throw wrong('another thread of this process, or another copy of passfd in it, has got them')
  try {
    const passed = hold(namesIn(process.env))
    owner[GIVEN] = true
    if (!keep) for (const variable of VARIABLES) delete process.env[variable]
    return passed
  } catch (error) {
    native.activation(false)
    throw error
  }
}

/** Returns a name for each descriptor. Throws ERR_PASSFD_ACTIVATION. */
export function namesIn({ LISTEN_FDS = '', LISTEN_FDNAMES: given }: NodeJS.ProcessEnv): string[] {
  const count = Number(LISTEN_FDS)
  if (!DIGITS.test(LISTEN_FDS) || count > MOST) throw wrong(`LISTEN_FDS is "${shown(LISTEN_FDS)}", and not a number`)
  const names = given === undefined ? Array<string>(count).fill(UNKNOWN) : count === 0 ? [] : given.split(':')
  if (names.length !== count) throw wrong(`LISTEN_FDS is ${count}, but LISTEN_FDNAMES has ${names.length} names`)
  return names
}

function hold(names: readonly string[]): { name: string; fd: number }[] {
  const passed: { name: string; fd: number }[] = []
  for (const [index, name] of names.entries()) {
    const fd = FIRST + index
    const isFree = native.hold(fd) >= 0
    if (isFree) passed.push({ name, fd })
    if (!isFree || isLoop(fd)) {
      for (const { fd } of passed) native.release(fd)
      const what = isFree ? "is Node's own" : 'is not open, or something else in this process owns it'
      throw wrong(`LISTEN_FDS is ${names.length}, but descriptor ${fd} ${what}`)
    }
  }
  return passed
}

/** Node's event loop is the first descriptor that it opens: it comes next if LISTEN_FDS is too large. Nobody gives epoll(7) to another program. */
function isLoop(fd: number): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventpoll]'
  } catch {
    return false // no /proc
  }
}

function wrong(detail: string): PassfdError {
  return new PassfdError('ACTIVATION', { detail })
}

/** What the names of `storeDescriptor()`'s probes begin with. A crash may leave one in systemd's store for a moment. */
export const PROBE = 'passfd-probe'

export function isProbe(name: string): boolean {
  return name.startsWith(PROBE)
}

let all: Passed[] | undefined
/** All that the manager has given, also those that have an owner by now. `kind`: as the shim gives it. */
let given: readonly { readonly name: string; readonly kind: number }[] = []

/** Returns those that no part of the program owns yet. `keep`: as in `takePassed()`. Empty where the shim is missing. */
export function passed(keep = false): readonly Passed[] {
  if (!available) return []
  if (all === undefined) {
    const taken = takePassed(keep)
    for (const { name, fd } of taken) if (isProbe(name)) native.close(fd)
    all = taken.filter(({ name }) => !isProbe(name)).map(entryOf)
    given = all.map(({ name, fd }) => ({ name, kind: native.kind(fd) }))
  }
  all = all.filter(each => !each.isGone())
  return all
}

function entryOf({ name, fd }: { name: string; fd: number }): Passed {
  let isTaken = false
  const take = (): number => {
    isTaken = true
    return fd
  }
  return { name, fd, take, isGone: () => isTaken }
}

/**
 * Returns the one of this name. Undefined if the manager has given no socket at all, because the program was started by hand, or its unit has none;
 * `isServed`: whether a kind is that of a socket unit. Throws ERR_PASSFD_ACTIVATED_MISSING, ERR_PASSFD_ACTIVATED_SEVERAL, ERR_PASSFD_ACTIVATION.
 */
export function passedAs(name: string, isServed: (kind: number) => boolean): Passed | undefined {
  const [found, ...others] = passed().filter(each => each.name === name)
  if (others.length > 0) throw new PassfdError('ACTIVATED_SEVERAL', { name, count: 1 + others.length })
  if (found !== undefined) return found
  if (given.some(each => each.name === name))
    throw new PassfdError('ACTIVATED_MISSING', { name }, { sentence: 'ACTIVATED_TAKEN' })
  // What systemd has stored for the service comes with every start, and says nothing of sockets
  if (!given.some(({ kind }) => isServed(kind))) return undefined
  const names = [...new Set(given.map(each => each.name))].slice(0, MOST_NAMES).map(shown).join(', ')
  throw new PassfdError('ACTIVATED_MISSING', { name, names })
}

/** The error of a program that needs the socket of this name, where `passedAs()` has found none. */
export function noneAs(name: string): PassfdError {
  const { LISTEN_FDS = '', LISTEN_PID = '' } = process.env
  if (!/^\d*[1-9]\d*$/.test(LISTEN_FDS) || LISTEN_PID === '') return new PassfdError('ACTIVATED_NONE', { name })
  const details = { name, owner: shown(LISTEN_PID), own: process.pid }
  return new PassfdError('ACTIVATED_NONE', details, { sentence: 'ACTIVATED_ELSEWHERE' })
}

/** Whether they name this very process. A pid may be used again; a pidfd's inode number is not (LISTEN_PIDFDID, systemd 259). */
export function isForUs({ LISTEN_PID, LISTEN_PIDFDID }: NodeJS.ProcessEnv): boolean {
  if (!DIGITS.test(LISTEN_PID ?? '') || Number(LISTEN_PID) !== process.pid) return false
  const own = LISTEN_PIDFDID === undefined ? undefined : pidfdId()
  return own === undefined || own === LISTEN_PIDFDID
}

/** Undefined: this kernel has no such numbers. */
function pidfdId(): string | undefined {
  const fd = native.pidfd(process.pid)
  if (fd < 0) return undefined
  native.release(fd)
  try {
    if (statfsSync(`/proc/self/fd/${fd}`).type !== PIDFS_MAGIC) return undefined
    return String(fstatSync(fd, { bigint: true }).ino)
  } catch {
    return undefined
  } finally {
    closeSync(fd)
  }
}
