/** Runs a command with descriptors, as systemd's socket activation does (sd_listen_fds(3)). */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { setTimeout as later } from 'node:timers/promises'
import type { Command } from 'commander'
import { CommandError, EXIT } from '../exit.ts'
import type { Ui } from '../ui.ts'
import { type Arrived, differing, plain } from './values.ts'

const FIRST = 3
const SHELL = '/bin/sh'
/** LISTEN_PID is the command's pid, which is known only after the fork. So a shell sets it, and becomes the command. */
const SCRIPT = 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
/** The kernel's limit of one variable, its name and the NUL included (MAX_ARG_STRLEN, execve(2)). */
const LONGEST = 131_072
/** The longest name of a descriptor: sd_pid_notify_with_fds(3). */
const LONGEST_NAME = 255
/** These concern this process, not the command. */
const OURS = /^(LISTEN_(PID|PIDFDID|FDS|FDNAMES)|PASSFD_VALUE)$/
/** A shell that could not become the command ends with one of these. */
const NOT_STARTED: readonly (number | null)[] = [126, 127]
/** The time from one look at the shell to the next, in ms. It becomes the command within one or two. */
const PAUSE = 2

/** How a command has ended. */
export interface Ending {
  /** Its exit code, or 128 and the number of the signal. */
  readonly exitCode: number
  readonly signal: NodeJS.Signals | undefined
}

export interface RunOptions {
  /** The signals that this process passes on to the command. Default: TERM, because a terminal sends INT to both. */
  readonly signals?: readonly NodeJS.Signals[]
  /**
   * Called once, when the command runs (true), or could not be started, because there is none of that name (false). The caller may close the descriptors then.
   * If it rejects, the command gets TERM, and the error is thrown when that has ended.
   */
  onStart?(started: boolean): Promise<void>
}

/** Resolves when the command has ended. The command gets copies of the descriptors; the caller still owns them. */
export async function runWith(
  command: readonly string[],
  value: unknown,
  arrived: ReadonlyMap<object, Arrived>,
  ui: Ui,
  { signals = ['SIGTERM'], onStart }: RunOptions = {}
): Promise<Ending> {
  const all = [...arrived.values()]
  const places = new Map(all.map((one, index) => [one, FIRST + index]))
  const json = JSON.stringify(plain(value, arrived, one => ({ fd: places.get(one), kind: one.descriptor.kind })))
  const room = LONGEST - 'PASSFD_VALUE='.length - 1
  if (Buffer.byteLength(json) > room)
    throw new CommandError(
      EXIT.data,
      `The value has ${Buffer.byteLength(json)} bytes as JSON, and an environment variable holds ${room}`,
      'Send large data in a file or pipe'
    )
  const env = Object.fromEntries(Object.entries(ui.streams.env).filter(([name]) => !OURS.test(name)))
  let child: ChildProcess | undefined
  const pass = (signal: NodeJS.Signals): void => {
    if (!comesFromTerminal(signal)) child?.kill(signal)
  }
  // Before the command runs, because somebody may send a signal as soon as it does
  for (const signal of signals) process.on(signal, pass)
  try {
    child = spawn(SHELL, ['-c', SCRIPT, 'sh', ...command], {
      env: {
        ...env,
        LISTEN_FDS: String(all.length),
        LISTEN_FDNAMES: listenNames(all.map(({ name }) => name)).join(':'),
        PASSFD_VALUE: json
      },
      stdio: ['inherit', 'inherit', 'inherit', ...all.map(({ descriptor }) => descriptor.borrow())]
    })
    const ended = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
    const starting = child.pid === undefined || onStart === undefined ? undefined : reportStart(child, onStart)
    starting?.catch(() => {}) // it is awaited when the command has ended
    const [code, signal] = await ended
    await starting
    return { exitCode: code ?? 128 + constants.signals[signal!], signal: signal ?? undefined }
  } finally {
    for (const signal of signals) process.off(signal, pass)
  }
}

async function reportStart(child: ChildProcess, onStart: (started: boolean) => Promise<void>): Promise<void> {
  try {
    await onStart(await becomesCommand(child))
  } catch (error) {
    child.kill('SIGTERM')
    throw error
  }
}

/** Resolves when the shell has become the command, or has ended. Nothing reports an exec(2) of a child, so its command line is read. */
async function becomesCommand(child: ChildProcess): Promise<boolean> {
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null) return !NOT_STARTED.includes(child.exitCode)
    const words = wordsOf(child.pid!)
    // Without words it is a zombie, whose exit comes
    if (words === undefined || (words.length > 1 && words[2] !== SCRIPT)) return true
    await later(PAUSE)
  }
}

/** The command line of a process. Undefined: it can't be read. */
function wordsOf(pid: number): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  } catch {
    return undefined
  }
}

/** A terminal sends these to all processes of its foreground group: to the command, too. */
function comesFromTerminal(signal: NodeJS.Signals): boolean {
  if (signal !== 'SIGINT' && signal !== 'SIGQUIT' && signal !== 'SIGHUP') return false
  try {
    // proc_pid_stat(5); the name of the program, which comes before, may have spaces
    const text = readFileSync('/proc/self/stat', 'utf8')
    const [, , group, , terminal, foreground] = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return terminal !== '0' && group === foreground
  } catch {
    return true
  }
}

/** All that stands behind the first of `marks` is the option `exec` of the command: another command, with its options. */
export function keepArguments(command: Command, marks: readonly string[]): void {
  const parse = command.parseOptions.bind(command)
  command.parseOptions = args => {
    const at = args.findIndex(word => marks.includes(word))
    if (at < 0) return parse(args)
    const given = args.slice(at + 1)
    if (given[0] === '--') given.shift()
    if (given.length > 0) command.setOptionValueWithSource('exec', given, 'cli')
    return parse(given.length > 0 ? args.slice(0, at) : args)
  }
}

/** Names as systemd allows them: ASCII without control characters and colons, and all different. */
export function listenNames(names: readonly string[]): string[] {
  const used = new Set<string>()
  return names.map(name => {
    const valid = name.replace(/[^\x20-\x7e]|:/g, '_').slice(0, LONGEST_NAME - 4) || 'unknown'
    const different = differing(valid, used)
    used.add(different)
    return different
  })
}
