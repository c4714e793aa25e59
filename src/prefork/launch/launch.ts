/** How workers are started: which descriptors and which environment they get. */

import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync, realpathSync, statSync } from 'node:fs'
import { basename, delimiter, dirname, isAbsolute, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ENOENT, ENOTDIR } from '../../base/errno.ts'
import { PassfdError, systemError } from '../../base/errors.ts'
import { native } from '../../os/native.ts'

interface Surroundings {
  readonly cwd?: string | URL | undefined
  /** Exactly these variables; undefined: `inheritable()`. */
  readonly env?: NodeJS.ProcessEnv | undefined
  readonly uid?: number | undefined
  readonly gid?: number | undefined
}

export interface NodeLaunch extends Surroundings {
  readonly entry: URL | string
  readonly args?: readonly string[] | undefined
  /** Options of Node itself. Default: this process' own, but each worker's inspector has a port of its own, which it prints. */
  readonly execArgv?: readonly string[] | undefined
}

export interface CommandLaunch extends Surroundings {
  readonly command: readonly [string, ...string[]]
  /** It gets SIGTERM when this process (the thread that started it) ends, however that happens: see `canSignalOnDeath`. */
  readonly deathSignal: boolean
}

/**
 * Starts a Node program; `numbers` become its descriptors 3, 4, …, and it gets no others but stdin (nothing), stdout and stderr (ours).
 * The numbers stay the caller's, and their status flags as they are. It has a session of its own, so that Ctrl-C in the terminal reaches
 * the supervisor only. What the system refuses comes as the child's 'error' event or is thrown, as `spawn` does it.
 */
export function launchNode(options: NodeLaunch, numbers: readonly number[]): ChildProcess {
  const { entry, args = [], execArgv = ownArguments() } = options
  const path = pathOf(entry)
  const whole = resolve(baseOf(options.cwd) ?? '/', path)
  const cwd = directoryFor(options.cwd, dirname(whole))
  // As it is given where that means the same: a link is followed by each new process
  const program = cwd === options.cwd ? path : whole
  return spawn(executable(), [...execArgv, '--', program, ...args], spawnOptions({ ...options, cwd }, numbers))
}

/**
 * Starts any program as systemd does with socket activation (sd_listen_fds(3)): the listeners are its descriptors 3, 4, …,
 * with LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID. The descriptor after them, whose number it finds in PASSFD_CHANNEL, is the application's
 * channel. The rest is as with `launchNode`; a program that is not there or can't be executed is an 'error' event with ENOENT or EACCES.
 */
export function launchCommand(
  options: CommandLaunch,
  listeners: readonly { readonly name: string; readonly fd: number }[],
  extra: Record<'PASSFD_CHANNEL', number>
): ChildProcess {
  const { command, deathSignal, env = inheritable() } = options
  const [name, ...args] = command
  const numbers = [...listeners.map(({ fd }) => fd), extra.PASSFD_CHANNEL]
  const environment = {
    ...env,
    LISTEN_FDS: `${listeners.length}`,
    LISTEN_FDNAMES: listeners.map(listener => listener.name).join(':'),
    PASSFD_CHANNEL: `${FIRST + listeners.length}`
  }
  const base = baseOf(options.cwd)
  const cwd = directoryFor(options.cwd, dirname(resolve(base ?? '/', name.includes('/') ? name : '/')))
  const spawning = spawnOptions({ ...options, cwd, env: environment }, numbers)
  const found = findProgram(name, env.PATH, cwd ?? base)
  // Started as it is, it fails: with the error, and by the event, that Node has for it
  if (found === undefined) return spawn(name, args, spawning)
  const trampoline = [SHELL, '-c', script(environment), 'sh', `${process.pid}`]
  // A name that begins with a dash would be an option of bash's exec
  const program = [...unspeakable(environment, name), name.startsWith('-') ? found : name, ...args]
  const [first, ...rest] = [...(deathSignal ? [setpriv(), ...DEATH_SIGNAL] : []), ...trampoline, ...program] as [string]
  return spawn(first, rest, spawning)
}

/** Whether a program can be made to end with its parent: setpriv(1) of util-linux ≥ 2.33 is there and works. */
export function canSignalOnDeath(): Promise<boolean> {
  signalsOnDeath ??= new Promise(settle => {
    execFile(setpriv(), [...DEATH_SIGNAL, SHELL, '-c', ':'], error => settle(error === null))
  })
  return signalsOnDeath
}

/** The environment without the variables that this process's own parent, systemd or another supervisor, has set for this process. */
export function inheritable(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !OURS.test(name) || name === SHIM))
}

const FIRST = 3
const SHELL = '/bin/sh'
const DEATH_SIGNAL = ['--pdeathsig', 'TERM', '--']
const OURS = /^(LISTEN_(PID|PIDFDID|FDS|FDNAMES)|NOTIFY_SOCKET|WATCHDOG_(PID|USEC)|PASSFD_.*)$/
/** Where the native part is: as true for the workers as for us. */
const SHIM = 'PASSFD_SHIM'
const SHELL_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/

let kept = false
let signalsOnDeath: Promise<boolean> | undefined

function ownArguments(): string[] {
  const found = withoutSource(process.execArgv, (process as { _eval?: string })._eval)
  return found.some(argument => argument.startsWith('--inspect')) ? [...found, '--inspect-port=0'] : [...found]
}

/** The source of `node -e` would be run instead of the program, and start workers itself; --input-type is allowed with a source only. */
function withoutSource(given: readonly string[], source: string | undefined): readonly string[] {
  if (source === undefined) return given
  const kept: string[] = []
  for (let at = 0; at < given.length; at++) {
    const argument = given[at]!
    if (argument === '--input-type' || given[at + 1] === source) at++
    else if (!argument.startsWith('--input-type=') && !argument.endsWith(`=${source}`)) kept.push(argument)
  }
  return kept
}

function spawnOptions({ cwd, env = inheritable(), uid, gid }: Surroundings, numbers: readonly number[]): SpawnOptions {
  if (cwd !== undefined) checkDirectory(cwd)
  keepInherited()
  return {
    env,
    detached: true,
    stdio: ['ignore', 'inherit', 'inherit', ...numbers],
    ...(cwd === undefined ? {} : { cwd }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid })
  }
}

/** Node makes close-on-exec what it was started with, but only as far as the first gap of numbers beyond 15. */
function keepInherited(): void {
  if (kept) return
  kept = true
  for (const name of readdirSync('/proc/self/fd')) {
    const fd = Number(name)
    if (fd >= FIRST && native.hold(fd) >= 0) native.release(fd)
  }
}

/** Node would say that the program is not there. */
function checkDirectory(cwd: string | URL): void {
  const status = statSync(cwd, { throwIfNoEntry: false })
  if (status?.isDirectory()) return
  throw systemError(status === undefined ? ENOENT : ENOTDIR, 'chdir', cwd instanceof URL ? fileURLToPath(cwd) : cwd)
}

/** What of an entry's path a user without other groups may not pass or read, by its mode. An access control list (acl(5)) may say otherwise. */
export function deniedTo(
  uid: number,
  gid: number,
  { entry, cwd }: Pick<NodeLaunch, 'entry' | 'cwd'>
): string | undefined {
  if (uid === 0) return undefined
  try {
    const path = realpathSync(resolve(baseOf(cwd) ?? '/', pathOf(entry)))
    const parents: string[] = []
    for (let at = path; at !== dirname(at); at = dirname(at)) parents.unshift(at)
    return parents.find(at => {
      const { mode, uid: owner, gid: group } = statSync(at)
      const shift = owner === uid ? 6 : group === gid ? 3 : 0
      return ((mode >> shift) & (at === path ? 0o4 : 0o1)) === 0
    })
  } catch {
    return undefined
  }
}

function pathOf(entry: URL | string): string {
  return entry instanceof URL || entry.startsWith('file:') ? fileURLToPath(entry) : entry
}

/** What relative paths are relative to. Undefined: to nothing, as this process has lost its working directory before it was ever asked for. */
function baseOf(cwd: string | URL | undefined): string | undefined {
  const own = ownDirectory()
  if (cwd === undefined) return own
  return resolve(own ?? '/', cwd instanceof URL ? fileURLToPath(cwd) : cwd)
}

/** The path of our working directory, as Node remembers it: it may be gone. */
export function ownDirectory(): string | undefined {
  try {
    return process.cwd()
  } catch {
    return undefined
  }
}

/**
 * Where a worker is to run. Without a `cwd` of its own it inherits ours (undefined). If that was removed, as an old release is, it runs in what
 * stands in its place by now, or in `folder`.
 */
function directoryFor(cwd: string | URL | undefined, folder: string): string | URL | undefined {
  if (cwd instanceof URL || (cwd !== undefined && isAbsolute(cwd))) return cwd
  const own = ownDirectory()
  if (own !== undefined && isSameDirectory('.', own)) return cwd
  if (cwd !== undefined) return resolve(own ?? '/', cwd)
  return own !== undefined && statSync(own, { throwIfNoEntry: false })?.isDirectory() ? own : folder
}

function isSameDirectory(one: string, other: string): boolean {
  try {
    const [first, second] = [statSync(one), statSync(other)]
    return first.dev === second.dev && first.ino === second.ino
  } catch {
    return false
  }
}

/** Node itself may have been part of an old release: the kernel still runs what this process is. */
function executable(): string {
  return existsSync(process.execPath) ? process.execPath : '/proc/self/exe'
}

/** Node's own words for this stand on the worker's standard error only. What Node may still find (another extension, a package's main) is left to it. */
export function checkEntry({ entry, cwd }: Pick<NodeLaunch, 'entry' | 'cwd'>): void {
  const base = baseOf(cwd) ?? '/'
  if (cwd !== undefined && statSync(base, { throwIfNoEntry: false })?.isDirectory() !== true) return // spawn says that
  const path = resolve(base, pathOf(entry))
  const refuse = (problem: string): never => {
    throw new PassfdError('ENTRY', { path, problem })
  }
  const status = statSync(path, { throwIfNoEntry: false })
  const names = (folder: string): string[] => {
    try {
      return readdirSync(folder)
    } catch {
      return []
    }
  }
  if (status === undefined) {
    if (!names(dirname(path)).some(name => name.startsWith(`${basename(path)}.`))) refuse('does not exist')
  } else if (status.isDirectory()) {
    if (!names(path).some(name => name === 'package.json' || name.startsWith('index.')))
      refuse('is a folder without package.json or index.js')
  } else {
    try {
      accessSync(path, constants.R_OK)
    } catch (error) {
      refuse(`can't be read (${(error as NodeJS.ErrnoException).code})`)
    }
  }
}

/**
 * LISTEN_PID must be the program's own (sd_listen_fds(3)), which is known only after the fork: so a shell says it, and becomes the
 * program. If our process has ended before the death signal was set, no process would ever send it: then the program does not begin.
 */
function script({ WATCHDOG_USEC }: NodeJS.ProcessEnv): string {
  const names = WATCHDOG_USEC === undefined ? 'LISTEN_PID' : 'LISTEN_PID WATCHDOG_PID'
  return `[ "$PPID" = "$1" ] || exit 143; shift; LISTEN_PID=$$ WATCHDOG_PID=$$; export ${names}; exec "$@"`
}

/** Variables whose names dash drops, as they can't be its own ("a.b"): env(1) brings them back, unless it would take the program for one. */
function unspeakable(env: NodeJS.ProcessEnv, program: string): string[] {
  const lost = Object.entries(env).filter(([name, value]) => !SHELL_NAME.test(name) && value !== undefined)
  return lost.length === 0 || program.includes('=')
    ? []
    : ['env', '--', ...lost.map(([name, value]) => `${name}=${value}`)]
}

function setpriv(): string {
  return findProgram('setpriv', `${process.env.PATH ?? ''}:/usr/bin:/bin`, undefined) ?? '/usr/bin/setpriv'
}

/** What execvp(3) would start. */
function findProgram(name: string, path = '/usr/bin:/bin', cwd: string | URL | undefined): string | undefined {
  const base = baseOf(cwd) ?? '/'
  const candidates = name.includes('/') ? [name] : path.split(delimiter).map(folder => `${folder || '.'}/${name}`)
  return name === '' ? undefined : candidates.map(candidate => resolve(base, candidate)).find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}
