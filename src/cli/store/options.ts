/** The options of `passfd store`: of its command line, and of the file that `--config` names. */
import { existsSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { inspect } from 'node:util'
import { type Command, InvalidArgumentError } from 'commander'
import { checkOptions, isOptions } from '../../base/known-options.ts'
import type { OpenStoreOptions, StoreQuota } from '../../store/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { loadFile } from '../serve/config.ts'
import { count, Expected, type Reader, size, text } from '../serve/read.ts'
import { reader, userOf } from './link.ts'

/** What the command line has. */
export interface Given {
  socket?: string
  mode?: number
  owner?: number | string
  group?: number | string
  takeover?: boolean
  config?: string
  maxDescriptors?: number
  maxNames?: number
  maxBytes?: number
}

/** What the command line and the configuration say, of which the command line wins. */
export interface Settings {
  readonly socket: string | undefined
  /** The mode, owner and group of the socket file. */
  readonly file: { mode?: number; owner?: number | string; group?: number | string }
  readonly options: OpenStoreOptions
  /** What errors call the configuration. Undefined: there is none. */
  readonly config: string | undefined
  /** Which of mode, owner and group come from the command line. */
  readonly flags: readonly string[]
}

const MOST = Number.MAX_SAFE_INTEGER
const LIMIT = count(0, MOST)

export function addOptions(command: Command): void {
  command
    .option('--socket <path>', 'listen at this path (default: $PASSFD_STORE, else store.socket in the runtime folder)')
    .option(
      '--mode <mode>',
      'the mode of the socket file, octal. Who may connect by that may be a client (default: 0600)',
      octal
    )
    .option('--owner <user>', 'the user whom the socket file belongs to', userOf)
    .option('--group <group>', 'the group of the socket file', userOf)
    .option(
      '--takeover',
      'replace the running store, with all that it holds; USR2 then starts this command line again, to replace this one'
    )
    .option(
      '--max-descriptors <n>',
      'limit the descriptors of all users (default: half of the limit of open files)',
      reader(LIMIT)
    )
    .option('--max-names <n>', 'limit the entries of all users (default: 65536)', reader(LIMIT))
    .option('--max-bytes <size>', 'limit the bytes of names and values of all users (default: 64M)', reader(size))
    .option('--config <file>', 'rules and quotas of users: a .json file, or a module (.js, .mjs, .cjs)')
    .option('--json', 'print what happens as lines of JSON')
}

function octal(given: string): number {
  const mode = modeOf(given)
  if (mode === undefined) throw new InvalidArgumentError('It is an octal number such as 0660.')
  return mode
}

function modeOf(given: unknown): number | undefined {
  return typeof given === 'string' && /^0?[0-7]{3}$/.test(given) ? Number.parseInt(given, 8) : undefined
}

/** JSON has no octal numbers, so the mode is a text. */
const mode: Reader<number> = given => {
  const value = modeOf(given)
  if (value === undefined) throw new Expected('a text with an octal number, such as "0660"')
  return value
}

const user: Reader<number | string> = given => {
  if (typeof given === 'number' || (typeof given === 'string' && given !== '')) return given
  throw new Expected('a number or a name')
}

/** Bytes may have a unit: "64M". The library checks the numbers. */
const quota: Reader<StoreQuota> = given => {
  if (!isOptions(given)) throw new Expected('an object with descriptors, names or bytes')
  const { bytes } = given as { bytes?: unknown }
  return typeof bytes === 'string' ? { ...given, bytes: within('bytes', () => size(bytes)) } : given
}

const quotas: Reader<Record<string, StoreQuota>> = given => {
  if (!isOptions(given)) throw new Expected('an object of quotas by user')
  return Object.fromEntries(Object.entries(given).map(([name, one]) => [name, within(name, () => quota(one))]))
}

/** The library checks it. */
const asIs: Reader<unknown> = given => given

const CONFIGURATION: Record<string, Reader<unknown>> = {
  socket: text,
  mode,
  owner: user,
  group: user,
  rules: asIs,
  total: quota,
  quota,
  quotas,
  maxConnections: asIs,
  maxConnectionsPerUser: asIs
}

/** What is expected of a value inside of another. */
class ExpectedAt extends Expected {
  readonly place: string

  constructor(place: string, message: string) {
    super(message)
    this.place = place
  }
}

function within<T>(place: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (!(error instanceof Expected)) throw error
    throw new ExpectedAt(error instanceof ExpectedAt ? `${place}.${error.place}` : place, error.message)
  }
}

/** Reads the configuration, too. Throws (exit code 78; 66 if there is no such file). */
export async function settingsOf(given: Given, cwd: string): Promise<Settings> {
  const path = given.config === undefined ? undefined : resolve(cwd, given.config)
  const read = path === undefined ? {} : await readConfiguration(path)
  const { socket, mode, owner, group, total, ...options } = read
  const { maxDescriptors, maxNames, maxBytes } = given
  const flags = defined({ mode: given.mode, owner: given.owner, group: given.group })
  return {
    socket: given.socket ?? (socket === undefined ? undefined : resolve(dirname(path!), socket)),
    file: { ...defined({ mode, owner, group }), ...flags },
    options: {
      ...options,
      total: { ...total, ...defined({ descriptors: maxDescriptors, names: maxNames, bytes: maxBytes }) }
    },
    config: path === undefined ? undefined : basename(path),
    flags: Object.keys(flags)
  }
}

type Configuration = Omit<OpenStoreOptions, 'takeover' | 'authorize' | 'signal'> &
  Settings['file'] & { socket?: string }

async function readConfiguration(path: string): Promise<Configuration> {
  if (!existsSync(path)) throw new CommandError(EXIT.noInput, `${path} does not exist`, 'Check --config')
  const name = basename(path)
  const given = await loadFile(path)
  try {
    checkOptions(given, CONFIGURATION, name)
  } catch (cause) {
    throw new CommandError(EXIT.config, (cause as Error).message.replace(/\.$/, ''), undefined, { cause })
  }
  const read: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(given as object)) {
    if (value === undefined || value === null) continue
    try {
      read[key] = CONFIGURATION[key]!(value)
    } catch (error) {
      if (!(error instanceof Expected)) throw error
      const place = error instanceof ExpectedAt ? `${key}.${error.place}` : key
      throw new CommandError(EXIT.config, `${place} in ${name} must be ${error.message}; it is ${shown(value)}`)
    }
  }
  return read
}

/** Says where an error of the library's check comes from: the configuration, or an option of the command line. */
export function explained(error: unknown, { config, flags }: Settings): unknown {
  const { code, message } = error as NodeJS.ErrnoException
  if (code !== 'ERR_PASSFD_INVALID_ARGUMENT') return error
  const [, place = '', rest = message] = /^(?:options|address|store)\.(\w+)(.*)$/s.exec(message) ?? []
  const what = `${place}${rest}`.replace(/\.$/, '')
  const options = { code, cause: error }
  if (flags.includes(place)) return new CommandError(EXIT.usage, `--${what}`, undefined, options)
  if (config === undefined) return error
  return new CommandError(EXIT.config, `In ${config} ${what}`, undefined, options)
}

function defined<T extends object>(values: T): { [Key in keyof T]?: NonNullable<T[Key]> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T
}

/** As JSON, or what has none as Node shows it. */
function shown(value: unknown): string {
  try {
    return JSON.stringify(value) ?? inspect(value)
  } catch {
    return inspect(value)
  }
}
