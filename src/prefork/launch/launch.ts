/** How workers are started: which descriptors and which environment they get. */

import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, existsSync, readdirSync, realpathSync, statSync } from 'node:fs'
import { basename, delimiter, dirname, isAbsolute, resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { ENOENT, ENOTDIR } from '../../base/errno.ts'
import { PassfdError, systemError } from '../../base/errors.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { native } from '../../os/native.ts'
import { isMissing } from '../../os/proc.ts'
import { isSingleExecutable } from '../../os/single-executable.ts'

interface Surroundings {
  readonly cwd?: string | URL | undefined
  /** All variables of the child. Default: `inheritable()`. */
  readonly env?: NodeJS.ProcessEnv | undefined
  readonly uid?: number | undefined
  readonly gid?: number | undefined
  /** Where its stdout and stderr go: a number of the caller's, or as with spawn(). Default: `'inherit'`. */
  readonly output?: readonly [stdout: Output, stderr: Output] | undefined
}

type Output = number | 'inherit' | 'ignore'

export interface NodeLaunch extends Surroundings {
  readonly entry: URL | string
  readonly args?: readonly string[] | undefined
  /** Options of Node. Default: those of this process, but each worker's inspector chooses a free port and prints it. */
  readonly execArgv?: readonly string[] | undefined
}

export interface ProgramLaunch extends Surroundings {
  readonly program: readonly [string, ...string[]]
}

export interface CommandLaunch extends Surroundings {
  readonly command: readonly [string, ...string[]]
  /** The kernel sends the child SIGTERM when the thread that started it ends, in whatever way: see `canSignalOnDeath`. */
  readonly deathSignal: boolean
}

/**
 * Starts a Node program with copies of `numbers` as its descriptors 3, 4, …, this process's stdout and stderr or `output`, and no stdin.
 * The caller still owns the numbers. The child has its own session, so Ctrl-C reaches only the supervisor. Fails as `spawn` does.
 */
export function launchNode(options: NodeLaunch, numbers: readonly number[]): ChildProcess {
  const { entry, args = [], execArgv = ownArguments() } = options
  const path = pathOf(entry)
  // Its program is in it, and it takes no options of Node's
  if (isSingleExecutable()) return start(executable(), args, spawnOptions(options, numbers))
  const whole = resolve(baseOf(options.cwd) ?? '/', path)
  const cwd = directoryFor(options.cwd, dirname(whole))
  // Unresolved if that names the same file, so that each new process follows a symbolic link again
  const program = cwd === options.cwd ? path : whole
  return start(executable(), [...execArgv, '--', program, ...args], spawnOptions({ ...options, cwd }, numbers))
}

/**
 * Starts any program as systemd's socket activation does (sd_listen_fds(3)): the listeners are its descriptors 3, 4, …, and it gets
 * LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID. The next descriptor is the application's channel; PASSFD_CHANNEL has its number.
 * Otherwise it works as `launchNode`. A program that is missing or not executable causes an 'error' event with ENOENT or EACCES.
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
  // This spawn fails, and Node reports the failure
  if (found === undefined) return start(name, args, spawning)
  const trampoline = [SHELL, '-c', script(environment), 'sh', `${process.pid}`]
  // A name that begins with a dash would be an option of bash's exec
  const program = [...unspeakable(environment, name), name.startsWith('-') ? found : name, ...args]
  const [first, ...rest] = [...(deathSignal ? [setpriv(), ...DEATH_SIGNAL] : []), ...trampoline, ...program] as [string]
  return start(first, rest, spawning)
}

/**
 * Starts a program that knows nothing of passfd, with `variables` in its environment and `preload` required by every process of Node's in it
 * (NODE_OPTIONS). It inherits no descriptor besides stdout and stderr. Otherwise it works as `launchCommand`.
 */
export function launchProgram(
  options: ProgramLaunch,
  preload: string,
  variables: Readonly<Record<string, string>>
): ChildProcess {
  const { program, env = inheritable() } = options
  const [name, ...args] = program
  const base = baseOf(options.cwd)
  const cwd = directoryFor(options.cwd, dirname(resolve(base ?? '/', name.includes('/') ? name : '/')))
  const nodeOptions = [...(env.NODE_OPTIONS ? [env.NODE_OPTIONS] : []), `--require ${quoted(preload)}`].join(' ')
  const spawning = spawnOptions({ ...options, cwd, env: { ...env, ...variables, NODE_OPTIONS: nodeOptions } }, [])
  return start(
    name === 'node' && findProgram(name, env.PATH, cwd ?? base) === undefined ? executable() : name,
    args,
    spawning
  )
}

/**
 * Starts the command line of this process again, beside it: with its stdout and stderr, no stdin, its environment, and its working directory, which is
 * looked up again behind a link. It is no child of this process, because systemd takes the exit of a main process that is not its own child for no exit at
 * all. Resolves to its pid. `sockets`: what it gets as from socket activation, under these names; the caller still owns the numbers.
 * Rejects with the system's error.
 */
export async function launchAgain(sockets: readonly { readonly name: string; readonly fd: number }[]): Promise<number> {
  const [, script = ''] = process.argv
  const cwd = directoryFor(undefined, dirname(script))
  const env: NodeJS.ProcessEnv = { ...process.env }
  for (const name of THIS_PROCESS) delete env[name]
  const activates = sockets.length > 0
  if (activates) {
    env.LISTEN_FDS = `${sockets.length}`
    env.LISTEN_FDNAMES = sockets.map(({ name }) => name).join(':')
  }
  const args = ['-c', activates ? BESIDE_ACTIVATED : BESIDE, 'sh', executable(), ...ownCommandLine()]
  const { readable, writable } = Descriptor.pipe()
  const stdio = [writable.borrow(), 'inherit', 'inherit', ...sockets.map(({ fd }) => fd)] as const
  try {
    const shell = start(SHELL, args, { env, stdio: [...stdio], ...(cwd === undefined ? {} : { cwd }) })
    writable.close()
    const [pid] = await Promise.all([text(readable.toReadable()), once(shell, 'exit')])
    return Number(pid)
  } finally {
    if (!writable.closed) writable.close()
    if (!readable.closed) readable.close()
  }
}

/** What stands behind the file of Node, or of a single executable, which Node names twice in `process.argv`. */
function ownCommandLine(): string[] {
  return isSingleExecutable() ? process.argv.slice(2) : [...beside(process.execArgv), ...process.argv.slice(1)]
}

/** As NODE_OPTIONS has it: a backslash escapes a quotation mark, and itself. */
function quoted(text: string): string {
  return `"${text.replace(/[\\"]/g, '\\$&')}"`
}

/** Resolves to whether setpriv(1) works (util-linux 2.33 or later): it makes a program end with its parent. */
export function canSignalOnDeath(): Promise<boolean> {
  signalsOnDeath ??= new Promise(settle => {
    execFile(setpriv(), [...DEATH_SIGNAL, SHELL, '-c', ':'], error => settle(error === null))
  })
  return signalsOnDeath
}

/** The environment without the variables that systemd or another supervisor has set for this process alone. */
export function inheritable(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !OURS.test(name) || name === SHIM))
}

const FIRST = 3
/** Each is a call of the system. */
const MOST_WITHOUT_PROC = 65_536
/** A shell starts a command in the background, with /dev/null as stdin, and writes its pid to its own stdin. */
const BESIDE = '"$@" & echo "$!" >&0'
/** The same for one that wants its own pid in LISTEN_PID. */
const BESIDE_ACTIVATED = `/bin/sh -c 'export LISTEN_PID=$$; exec "$@"' sh "$@" & echo "$!" >&0`
const SHELL = '/bin/sh'
const DEATH_SIGNAL = ['--pdeathsig', 'TERM', '--']
/** Variables about one process alone. Without WATCHDOG_PID the watchdog is that of any process of the service, sd_watchdog_enabled(3). */
const THIS_PROCESS = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'WATCHDOG_PID']
const OURS = /^(LISTEN_(PID|PIDFDID|FDS|FDNAMES)|NOTIFY_SOCKET|FDSTORE|WATCHDOG_(PID|USEC)|PASSFD_.*)$/
/** Names the native part. Workers inherit it. */
const SHIM = 'PASSFD_SHIM'
const FREE_PORT = '--inspect-port=0'
const SHELL_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/

let kept = false
let signalsOnDeath: Promise<boolean> | undefined

function ownArguments(): string[] {
  return beside(withoutSource(process.execArgv, (process as { _eval?: string })._eval))
}

/** Options of this process for one beside it: its inspector needs another port. */
function beside(options: readonly string[]): string[] {
  const inspects = options.some(option => option.startsWith('--inspect')) && options.at(-1) !== FREE_PORT
  return inspects ? [...options, FREE_PORT] : [...options]
}

/** Removes the source of `node -e`, because Node would run it instead of the program. --input-type is allowed only with a source. */
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

function spawnOptions(surroundings: Surroundings, numbers: readonly number[]): SpawnOptions {
  const { cwd, env = inheritable(), uid, gid, output = ['inherit', 'inherit'] } = surroundings
  if (cwd !== undefined) checkDirectory(cwd)
  // The stdin of a worker. Node's error would name the program instead
  if (isMissing('/dev/null')) throw systemError(ENOENT, 'open', '/dev/null')
  keepInherited()
  return {
    env,
    detached: true,
    stdio: ['ignore', ...output, ...numbers],
    ...(cwd === undefined ? {} : { cwd }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid })
  }
}

/** Makes inherited descriptors close-on-exec. Node does that too, but stops at the first unused number above 15. */
function keepInherited(): void {
  if (kept) return
  for (const fd of openNumbers()) if (fd >= FIRST && native.hold(fd) >= 0) native.release(fd)
  kept = true // not before: if the list can't be read, the next start tries again
}

/** Without /proc all those that may be open. */
function openNumbers(): Iterable<number> {
  try {
    return readdirSync('/proc/self/fd').map(Number)
  } catch (error) {
    if (!['ENOENT', 'ERR_ACCESS_DENIED'].includes((error as NodeJS.ErrnoException).code!)) throw error
    return Array(Math.min(native.limit(), MOST_WITHOUT_PROC)).keys()
  }
}

/** As spawn(2). If Node's permission model forbids it, the error names the flag that allows it. Older versions of Node do not. */
function start(command: string, args: readonly string[], options: SpawnOptions): ChildProcess {
  try {
    return spawn(command, args, options)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ERR_ACCESS_DENIED' && !message.includes('--allow'))
      (error as Error).message = `${message}. Run node with --allow-child-process, too`
    throw error
  }
}

/** Throws if `cwd` is no directory, because Node's error would name the program instead. */
function checkDirectory(cwd: string | URL): void {
  const status = statSync(cwd, { throwIfNoEntry: false })
  if (status?.isDirectory()) return
  throw systemError(status === undefined ? ENOENT : ENOTDIR, 'chdir', cwd instanceof URL ? fileURLToPath(cwd) : cwd)
}

/** Returns the first part of the entry's path that the mode denies to this user and group. It ignores access control lists (acl(5)). */
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

/** Returns the base of relative paths. Undefined: this process's working directory was removed before Node first read its path. */
function baseOf(cwd: string | URL | undefined): string | undefined {
  const own = ownDirectory()
  if (cwd === undefined) return own
  return resolve(own ?? '/', cwd instanceof URL ? fileURLToPath(cwd) : cwd)
}

/** Returns the path of this process's working directory. Node caches it, so the directory may not exist any more. */
export function ownDirectory(): string | undefined {
  try {
    return process.cwd()
  } catch {
    return undefined
  }
}

/**
 * Returns a worker's working directory. Without `cwd` it inherits this process's (undefined). If that was removed, with an old release for
 * example, the worker runs in the directory that now has the same path, or in `folder`.
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

/** The file of Node may have been removed with an old release; /proc/self/exe still starts it. Without /proc Node knows only the name that it was started by. */
function executable(): string {
  if (existsSync(process.execPath)) return process.execPath
  return isMissing('/proc/self/exe') ? process.argv0 : '/proc/self/exe'
}

/** Throws in a single executable application, if `launchNode` would not start what the options name: it starts the executable again. */
export function checkExecutable({
  entry,
  execArgv
}: {
  entry: URL | string
  execArgv?: readonly string[] | undefined
}): void {
  if (!isSingleExecutable()) return
  const path = resolve(ownDirectory() ?? '/', pathOf(entry))
  if (path !== process.execPath || execArgv !== undefined) throw new PassfdError('ENTRY_EXECUTABLE', { path })
}

/** Throws if the entry is missing or unreadable, because Node says so only on the worker's stderr. Node may still add an extension or an index file. */
export function checkEntry({ entry, cwd }: Pick<NodeLaunch, 'entry' | 'cwd'>): void {
  const base = baseOf(cwd) ?? '/'
  if (cwd !== undefined && statSync(base, { throwIfNoEntry: false })?.isDirectory() !== true) return // spawn reports that
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
 * LISTEN_PID must be the program's pid (sd_listen_fds(3)), which is known only after the fork. So a shell sets it, and then executes the
 * program. If this process ended before the death signal was set, the kernel would never send it, so the shell exits instead.
 */
function script({ WATCHDOG_USEC }: NodeJS.ProcessEnv): string {
  const names = WATCHDOG_USEC === undefined ? 'LISTEN_PID' : 'LISTEN_PID WATCHDOG_PID'
  return `[ "$PPID" = "$1" ] || exit 143; shift; LISTEN_PID=$$ WATCHDOG_PID=$$; export ${names}; exec "$@"`
}

/** Arguments of env(1) that restore variables which dash drops for their names ("a.b"). None if env would take the program's name for a variable. */
function unspeakable(env: NodeJS.ProcessEnv, program: string): string[] {
  const lost = Object.entries(env).filter(([name, value]) => !SHELL_NAME.test(name) && value !== undefined)
  return lost.length === 0 || program.includes('=')
    ? []
    : ['env', '--', ...lost.map(([name, value]) => `${name}=${value}`)]
}

function setpriv(): string {
  return findProgram('setpriv', `${process.env.PATH ?? ''}:/usr/bin:/bin`, undefined) ?? '/usr/bin/setpriv'
}

/** Finds the file that execvp(3) would execute. `path`: of PATH, whose relative folders start at `cwd`. */
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
