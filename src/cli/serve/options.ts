/** The options of `passfd serve`: one table, from which the command line, its help, and the check of a configuration come. */
import { resolve as resolvePath } from 'node:path'
import { inspect } from 'node:util'
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { BindSpec } from '../../index.ts'
import type { Balance } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { isName } from '../names.ts'
import { offer } from '../ui.ts'
import {
  addressOf,
  count,
  Expected,
  flag,
  listeners,
  oneOf,
  type Reader,
  size,
  text,
  texts,
  time,
  variables,
  workers
} from './read.ts'
import { stickyBalance } from './sticky.ts'

interface Entry<T> {
  /** Of the command line, for commander; undefined: in a configuration only. */
  readonly flags: string | undefined
  readonly help: string
  readonly read: Reader<T>
  /** May be given several times. */
  readonly repeats?: boolean
  /** Not in a configuration. */
  readonly commandLineOnly?: true
  /** In a configuration it is a path from the configuration's folder. */
  readonly isPath?: boolean
  /** Values that a shell completes. */
  readonly offers?: readonly string[]
}

function option<T>(flags: string | undefined, help: string, read: Reader<T>, more: Partial<Entry<T>> = {}): Entry<T> {
  return { flags, help, read, ...more }
}

const MOST = 0x7fffffff
const BALANCES = ['per-worker', 'shared', 'round-robin', 'least-connections', 'address'] as const

const balance: Reader<Balance> = given => {
  if (typeof given === 'object' && given !== null) return given as Balance // the library checks it
  const name = oneOf(...BALANCES)(given)
  return name === 'per-worker' || name === 'shared' ? name : { dispatch: name }
}

/** `true`: the working folder. */
const watch: Reader<true | string[] | undefined> = given => {
  if (given === true || given === '') return true
  return given === false ? undefined : texts(given)
}

const sticky: Reader<Balance> = given => {
  const found = stickyBalance(text(given))
  if (found === undefined) throw new Expected('cookie=NAME, cookie, address or socket.io')
  return found
}

const serverName: Reader<string> = given => {
  if (typeof given === 'string' && isName(given)) return given
  throw new Expected('a name of A-Z, a-z, 0-9, ".", "_" and "-"')
}

/** A port alone is only for this host, because the metrics are nobody else's business. */
const metrics: Reader<BindSpec> = given => {
  const address = addressOf(given)
  if ('type' in address) throw new Expected('a port, HOST:PORT, [IPv6]:PORT, or a path (which contains "/")')
  return 'port' in address && address.host === undefined ? { ...address, host: '127.0.0.1' } : address
}

/** By their names in a configuration. The help has these groups, in this order. */
const GROUPS = {
  'Workers:': {
    workers: option('-w, --workers <n|max>', 'how many; max: one for each processor (the default)', workers, {
      offers: ['max']
    }),
    waitReady: option('--wait-ready', "a worker is ready when it listens and has called process.send('ready')", flag),
    maxRss: option('--max-rss <size>', 'replace a worker with more resident memory: 300M', size),
    maxRequests: option('--max-requests <n>', 'replace a worker after so many requests', count(1, MOST)),
    maxAge: option('--max-age <time>', 'replace a worker after this time: 1h', time(1, Number.MAX_SAFE_INTEGER)),
    uid: option('--uid <number>', 'the user of the workers', count(0, MOST)),
    gid: option('--gid <number>', 'the group of the workers', count(0, MOST))
  },
  'Connections:': {
    listen: option(
      '--listen <name=address>',
      'open a listener beforehand: web=3000, web=127.0.0.1:3000, web=/run/web.sock',
      listeners,
      {
        repeats: true
      }
    ),
    balance: option('--balance <policy>', `who gets a connection: ${BALANCES.join(', ')}`, balance, {
      offers: BALANCES
    }),
    sticky: option(
      '--sticky <rule>',
      'keep a client at its worker by: cookie=NAME, cookie, address, socket.io',
      sticky,
      { offers: ['address', 'cookie', 'socket.io'] }
    )
  },
  'Name and place:': {
    name: option('--name <name>', "the server's name (default: that of package.json, else of the folder)", serverName),
    takeover: option(
      '--takeover',
      'replace the running server of this name, without losing a request; USR2 replaces this one in the same way',
      flag,
      { commandLineOnly: true }
    ),
    admin: option(
      '--admin <path>',
      'the socket at which it is commanded (default: NAME.sock in the runtime folder)',
      text,
      {
        isPath: true
      }
    ),
    cwd: option('--cwd <folder>', "the workers' folder; a link is resolved again for each new worker", text, {
      isPath: true
    }),
    envFile: option('--env-file <file>', "variables for the workers; the environment's go before it", texts, {
      repeats: true,
      isPath: true
    }),
    env: option(undefined, 'variables for the workers, which go before all others', variables),
    config: option(
      '--config <file>',
      'the configuration (default: passfd.config.js, .mjs, .cjs or .json, else "passfd" in package.json)',
      text,
      { commandLineOnly: true }
    )
  },
  'Times:': {
    readyTimeout: option('--ready-timeout <time>', 'limit the start of a worker (default: 30s; 0: no limit)', time(0)),
    lameDuck: option(
      '--lame-duck <time>',
      'serve as before for this time after the stop was asked for (default: 0)',
      time(0)
    ),
    stopTimeout: option(
      '--stop-timeout <time>',
      'limit the time for open requests at the stop (default: 30s)',
      time(1)
    ),
    killTimeout: option('--kill-timeout <time>', 'the time from TERM to KILL (default: 5s)', time(1)),
    idleGrace: option(
      '--idle-grace <time>',
      'how long a stopping worker keeps an idle connection (default: 1s)',
      time(0)
    ),
    closeIdle: option(
      '--close-idle',
      'close idle connections at a reload; otherwise other workers go on with them',
      flag
    ),
    hangTimeout: option(
      '--hang-timeout <time>',
      'replace a worker that hangs for this time (default: 10s; 0: never)',
      time(0)
    )
  },
  'Development and output:': {
    watch: option('--watch [folder…]', 'reload when a file changes, here or in these folders', watch, {
      repeats: true,
      isPath: true
    }),
    log: option('--log <format>', "the workers' output: text or json", oneOf('text', 'json'), {
      offers: ['text', 'json']
    }),
    logFile: option('--log-file <file>', "write the workers' output to a file; USR1 opens it again", text, {
      isPath: true
    }),
    metrics: option(
      '--metrics <address>',
      'serve GET /metrics for Prometheus: 9100 (of 127.0.0.1), 0.0.0.0:9100, or a path (needs prom-client)',
      metrics
    )
  },
  'Node (before the program):': {
    import: option('--import <module>', 'as of Node: tsx for TypeScript', texts, { repeats: true }),
    require: option('-r, --require <module>', 'as of Node', texts, { repeats: true }),
    conditions: option('-C, --conditions <condition>', 'as of Node', texts, { repeats: true }),
    nodeOption: option(
      '--node-option <option>',
      'any other option of Node: --node-option=--enable-source-maps',
      texts,
      { repeats: true }
    ),
    program: option(undefined, 'the program, if the command line has none', text),
    args: option(undefined, 'arguments of the program, if the command line has no program', texts)
  }
} satisfies Record<string, Record<string, Entry<unknown>>>

type Table = UnionToIntersection<(typeof GROUPS)[keyof typeof GROUPS]>
type UnionToIntersection<U> = (U extends unknown ? (one: U) => void : never) extends (all: infer I) => void ? I : never

export type ServeOptions = { [Name in keyof Table]?: Table[Name] extends Entry<infer T> ? T : never }
type Name = keyof ServeOptions

/** By name. */
export const OPTIONS = Object.assign({}, ...Object.values(GROUPS)) as Record<Name, Entry<unknown>>

/** Adds the options to the command. */
export function addOptions(command: Command): void {
  for (const [group, entries] of Object.entries(GROUPS))
    for (const { flags, help, read, repeats, offers } of Object.values(entries) as Entry<unknown>[]) {
      if (flags === undefined) continue
      const added = new Option(flags.replace('…', ''), help).helpGroup(group)
      if (added.required || added.optional)
        added.argParser((value: string, before: unknown) =>
          repeats === true ? merge(before, parse(read, value)) : parse(read, value)
        )
      if (offers !== undefined) offer(added, offers)
      command.addOption(added)
    }
}

function parse(read: Reader<unknown>, value: string): unknown {
  try {
    return read(value)
  } catch (error) {
    if (error instanceof Expected) throw new InvalidArgumentError(`It must be ${error.message}`)
    throw error
  }
}

/** Of an option that was given before. */
function merge(before: unknown, value: unknown): unknown {
  if (Array.isArray(before) && Array.isArray(value)) return [...before, ...value]
  if (typeof before === 'object' && typeof value === 'object') {
    const twice = Object.keys(value!).find(name => Object.hasOwn(before!, name))
    if (twice !== undefined) throw new InvalidArgumentError(`There is a "${twice}" already`)
    return { ...before, ...value }
  }
  return value
}

/** Reads the values of a configuration, whose names are known. Throws (exit code 78). `file`: what errors call it. */
export function readConfiguration(given: object, file: string, resolve: (path: string) => string): ServeOptions {
  const read: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue
    const entry = OPTIONS[name as Name]
    try {
      const result = entry.read(value)
      read[name] = entry.isPath === true ? pathsOf(result, resolve) : result
    } catch (error) {
      if (!(error instanceof Expected)) throw error
      throw new CommandError(EXIT.config, `${name} in ${file} must be ${error.message}; it is ${shown(value)}`)
    }
  }
  return read
}

/** As JSON, or what has none as Node shows it. */
function shown(value: unknown): string {
  try {
    return JSON.stringify(value) ?? inspect(value)
  } catch {
    return inspect(value)
  }
}

/** Makes the paths of a command line absolute. */
export function withPaths(options: ServeOptions, cwd: string): ServeOptions {
  const entries = Object.entries(options).map(([name, value]) => {
    const isPath = OPTIONS[name as Name].isPath === true
    return [name, isPath ? pathsOf(value, path => resolvePath(cwd, path)) : value]
  })
  return Object.fromEntries(entries)
}

function pathsOf(value: unknown, resolve: (path: string) => string): unknown {
  if (Array.isArray(value)) return value.map(resolve)
  return typeof value === 'string' ? resolve(value) : value
}

/**
 * Whether this word of a command line is an option, and whether the next word is its value. Undefined: it is no option, so it is the program.
 * Of `--watch` the next words are its folders: see watch-folders.ts.
 */
export function wordKind(word: string): 'alone' | 'with value' | undefined {
  if (!word.startsWith('-') || word === '-') return undefined
  if (word.includes('=')) return 'alone'
  const found = Object.values(OPTIONS).find(({ flags }) => flags?.split(/[ ,]+/).includes(word))
  return found?.flags?.includes('<') ? 'with value' : 'alone'
}
