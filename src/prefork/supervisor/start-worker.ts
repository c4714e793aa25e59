/** Starts the process of a worker: Node with an `entry`, an unmodified `program`, or a `command` in any language. */
import type { ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { PassfdError } from '../../base/errors.ts'
import { preloadPaths } from '../../base/own-file.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { NotifySocket } from '../../systemd/notify-socket.ts'
import { SUPERVISOR_VARIABLE } from '../control/control.ts'
import { DESK_VARIABLE, PATHS_VARIABLE, SLOT_VARIABLES, WAIT_READY_VARIABLE } from '../control/desk.ts'
import {
  checkEntry,
  checkExecutable,
  inheritable,
  launchCommand,
  launchNode,
  launchProgram,
  type NodeLaunch
} from '../launch/launch.ts'
import type { Settings, SpawnSettings } from '../options.ts'
import type { WriteEnds } from './output-lines.ts'

/** The process gets copies of the Descriptors, which the caller still owns. */
export interface WorkerStart {
  readonly slot: number
  readonly settings: Settings
  /** The worker's end of the control channel. Not for a `command`; a `program` asks for it later. */
  readonly control: Descriptor | undefined
  /** The worker's end of the application's channel. */
  readonly application: Descriptor
  /** Where its output goes if `spawn.stdio` is `'lines'`. */
  readonly output: WriteEnds | undefined
  /** Only for a `program`: where it asks for listeners, and by which token. */
  readonly desk: { readonly name: string; readonly token: string } | undefined
  /** Only for a `program`: the files of the listeners. */
  readonly paths: readonly string[]
  /** Where the process says that it is ready. Not for an `entry`. */
  readonly notify: NotifySocket | undefined
  /** Only for a `command`, as all that follows. */
  readonly grants: ReadonlyMap<string, ListenerGrant>
  readonly deathSignal: boolean
}

/** Throws, or returns a process that emits 'error', if it can't be started. */
export function startWorker(start: WorkerStart): ChildProcess {
  const { command, program, entry, spawn } = start.settings
  const output = outputOf(spawn, start.output)
  if (command !== undefined) return startCommand(start, command, output)
  return program === undefined ? startNode(start, entry!, output) : startProgram(start, program, output)
}

/** Describes why a process could not be started, as the end of a sentence. */
export function startFailure(error: NodeJS.ErrnoException, { uid, gid }: SpawnSettings): string {
  const { code, syscall = '', message } = error
  if (code === 'EPERM' && (uid ?? gid) !== undefined) {
    const wanted = [uid === undefined ? [] : `user ${uid}`, gid === undefined ? [] : `group ${gid}`]
      .flat()
      .join(' and ')
    return `user ${process.geteuid?.()} may not start processes as ${wanted}: only root may (${message})`
  }
  if (code === 'EAGAIN' && syscall.startsWith('spawn')) return `the limit of processes is reached (${message})`
  return message
}

function startNode({ settings, control, application }: WorkerStart, entry: string | URL, output: Output): ChildProcess {
  const { spawn } = settings
  checkEntry({ entry, cwd: spawn.cwd })
  const env = { ...inheritable(spawn.env), [SUPERVISOR_VARIABLE]: String(process.pid) }
  return launchNode({ ...spawn, entry, env, output }, [control!.borrow(), application.borrow()])
}

function startProgram(
  { slot, settings, desk, paths, notify }: WorkerStart,
  program: readonly [string, ...string[]],
  output: Output
): ChildProcess {
  const { spawn, waitReady } = settings
  const variables = {
    ...Object.fromEntries(SLOT_VARIABLES.map(name => [name, `${slot}`])),
    [DESK_VARIABLE]: `${desk!.name} ${desk!.token}`,
    ...(paths.length > 0 ? { [PATHS_VARIABLE]: JSON.stringify(paths) } : {}),
    ...(waitReady ? { [WAIT_READY_VARIABLE]: '1', NOTIFY_SOCKET: notify!.address } : {})
  }
  return launchProgram({ ...spawn, program, env: inheritable(spawn.env), output }, preload(), variables)
}

function startCommand(
  { settings, deathSignal, grants, notify, application }: WorkerStart,
  command: readonly [string, ...string[]],
  output: Output
): ChildProcess {
  const env: NodeJS.ProcessEnv = { ...inheritable(settings.spawn.env), NOTIFY_SOCKET: notify!.address }
  if (settings.hangTimeout > 0) env.WATCHDOG_USEC = String(settings.hangTimeout * 1000)
  const listeners = [...grants].map(([name, grant]) => ({
    name,
    listener: (grant as { listener: Descriptor }).listener
  }))
  try {
    return launchCommand(
      { ...settings.spawn, command, env, deathSignal, output },
      listeners.map(({ name, listener }) => ({ name, fd: listener.borrow() })),
      { PASSFD_CHANNEL: application.borrow() }
    )
  } finally {
    for (const { listener } of listeners) listener.close()
  }
}

type Output = NodeLaunch['output']

function outputOf({ stdio }: SpawnSettings, ends: WriteEnds | undefined): Output {
  if (ends !== undefined) return [ends.stdout.borrow(), ends.stderr.borrow()]
  return stdio === 'ignore' ? [stdio, stdio] : undefined
}

/** Throws if no worker could be started, wherever this code is: in a bundle, or in a single executable application. */
export function checkStart({ program, entry, spawn }: Settings): void {
  if (program !== undefined) preload()
  if (entry !== undefined) checkExecutable({ entry, execArgv: spawn.execArgv })
}

/** Returns the path of the file that is loaded into programs. Throws ERR_PASSFD_PRELOAD_MISSING. */
function preload(): string {
  const path = preloadPaths().find(name => existsSync(name))
  if (path === undefined) throw new PassfdError('PRELOAD_MISSING')
  return path
}
