/** Runs a command with descriptors, as systemd's socket activation does (sd_listen_fds(3)). */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
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

/**
 * Resolves to the exit code of the command, or to 128 and the number of the signal that has ended it. The command gets copies of the descriptors; the
 * caller still owns them.
 */
export async function runWith(
  command: readonly string[],
  value: unknown,
  arrived: ReadonlyMap<object, Arrived>,
  ui: Ui
): Promise<number> {
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
  const child = spawn(SHELL, ['-c', SCRIPT, 'sh', ...command], {
    env: {
      ...env,
      LISTEN_FDS: String(all.length),
      LISTEN_FDNAMES: listenNames(all.map(({ name }) => name)).join(':'),
      PASSFD_VALUE: json
    },
    stdio: ['inherit', 'inherit', 'inherit', ...all.map(({ descriptor }) => descriptor.borrow())]
  })
  // A terminal sends SIGINT to both
  const terminate = (): void => void child.kill('SIGTERM')
  process.on('SIGTERM', terminate)
  try {
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
    return code ?? 128 + constants.signals[signal!]
  } finally {
    process.off('SIGTERM', terminate)
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
