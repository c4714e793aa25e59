/** The Supervisor's options of what `passfd serve` was given. */
import { readFileSync } from 'node:fs'
import { delimiter, dirname, join, resolve } from 'node:path'
import { parseEnv } from 'node:util'
import type { Balance, SupervisorOptions } from '../../prefork/index.ts'
import { inheritable } from '../../prefork/launch/launch.ts'
import { CommandError, EXIT } from '../exit.ts'
import type { ServeOptions } from './options.ts'
import { checkFound } from './program.ts'
import { WATCH_DEFAULTS } from './watch.ts'

/** Where the server is, and what it runs. */
export interface Setting {
  readonly command: readonly [string, ...string[]]
  /** Of the workers. */
  readonly cwd: string
  /** The environment of this process. */
  readonly env: NodeJS.ProcessEnv
  /** A person sees the workers' output, which is a pipe for the workers: they may write colours. */
  readonly colors: boolean
  readonly admin: string
  readonly takeover: NonNullable<SupervisorOptions['takeover']>
}

export function supervisorOptions(options: ServeOptions, setting: Setting): SupervisorOptions {
  const { workers, maxRss: rss, maxRequests: requests, maxAge: age, uid, gid } = options
  const environment = environmentOf(options, setting)
  checkFound(setting.command[0], environment.PATH!, setting.cwd)
  const watching = options.watch === undefined ? undefined : WATCH_DEFAULTS
  return defined({
    program: setting.command,
    waitReady: options.waitReady,
    listeners: options.listen ?? {},
    workers: workers === 'max' ? undefined : (workers ?? watching?.workers),
    restart: watching?.restart,
    balance: balanceOf(options),
    spawn: defined({ cwd: setting.cwd, env: environment, uid, gid, stdio: 'lines' as const }),
    readyTimeout: options.readyTimeout,
    lameDuck: options.lameDuck,
    stopTimeout: options.stopTimeout ?? watching?.stopTimeout,
    killTimeout: options.killTimeout,
    idleGrace: options.idleGrace,
    passIdle: options.closeIdle === undefined ? undefined : !options.closeIdle,
    hangTimeout: options.hangTimeout,
    limits: defined({ rss, requests, age }),
    admin: setting.admin,
    takeover: setting.takeover
  })
}

/** `.env` files, then this process's own variables, then the configuration's: what comes later wins. Programs of the package are found in PATH. */
export function environmentOf(
  { envFile = [], env = {} }: ServeOptions,
  setting: Pick<Setting, 'cwd' | 'env' | 'colors'>
): NodeJS.ProcessEnv {
  const merged: NodeJS.ProcessEnv = {}
  for (const file of envFile) Object.assign(merged, parseEnv(readEnv(file)))
  Object.assign(merged, inheritable(setting.env), env)
  if (setting.colors && merged.NO_COLOR === undefined) merged.FORCE_COLOR ??= '1'
  // Windows takes names in capitals and in small letters for the same
  const path = process.platform === 'win32' ? Object.keys(merged).find(name => /^path$/i.test(name)) : undefined
  const bins = foldersFrom(setting.cwd).map(folder => join(folder, 'node_modules', '.bin'))
  merged[path ?? 'PATH'] = [...bins, merged[path ?? 'PATH'] ?? '/usr/local/bin:/usr/bin:/bin'].join(delimiter)
  return merged
}

/** The folder and those around it, as npm runs scripts: a workspace has the programs of its packages in its own node_modules. */
function foldersFrom(cwd: string): string[] {
  const folder = resolve(cwd)
  const parent = dirname(folder)
  return parent === folder ? [folder] : [folder, ...foldersFrom(parent)]
}

function readEnv(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw new CommandError(
      EXIT.noInput,
      `${file} can't be read (${(cause as NodeJS.ErrnoException).code})`,
      'Check --env-file',
      { cause }
    )
  }
}

function balanceOf({ balance, sticky }: ServeOptions): Balance | undefined {
  if (sticky === undefined) return balance
  if (balance !== undefined)
    throw new CommandError(EXIT.usage, '--balance and --sticky both say who gets a connection', 'Give one of them')
  return sticky
}

/** Without the properties that are undefined. */
function defined<T extends object>(given: T): Defined<T> {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as Defined<T>
}

type Optional<T> = { [Name in keyof T]: undefined extends T[Name] ? Name : never }[keyof T]
type Defined<T> = { [Name in Exclude<keyof T, Optional<T>>]: T[Name] } & {
  [Name in Optional<T>]?: Exclude<T[Name], undefined>
}
