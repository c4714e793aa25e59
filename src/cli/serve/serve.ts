/** `passfd serve <program> [args…]`: a supervisor in the foreground, around any Node program. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { PassfdError, Peer } from '../../index.ts'
import { Supervisor } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { checkName, defaultName, runtimeFolder, socketOf, takeoverPathOf } from '../names.ts'
import { examples, hasColors, Ui } from '../ui.ts'
import { AdminLink } from './admin-link.ts'
import { loadConfiguration } from './config.ts'
import { type Report, reportEvents } from './events.ts'
import { addOptions, type ServeOptions } from './options.ts'
import { writeLines } from './output.ts'
import { commandOf } from './program.ts'
import { supervisorOptions } from './supervisor-options.ts'
import { withWatchFolders } from './watch-folders.ts'

export function register(program: Command): void {
  const command = program
    .command('serve')
    .description(
      'Runs any Node program in several worker processes that share its ports. SIGHUP reloads without losing a request, SIGTERM and SIGINT stop gracefully.'
    )
    .argument('[program]', 'a file (.js, .mjs, .cjs, .ts, .mts), a folder with a package, or a command')
    .argument('[args...]', 'its arguments')
    .passThroughOptions()
    .action((first: string | undefined, rest: string[], options: ServeOptions) =>
      serve(first === undefined ? [] : [first, ...rest], options, new Ui(command))
    )
  addOptions(command)
  const parseOptions = command.parseOptions.bind(command)
  command.parseOptions = words => parseOptions(withWatchFolders(words))
  examples(
    command,
    ['passfd serve server.js', 'as many workers as there are processors'],
    ['passfd serve -w 4 --max-rss 300M server.js --port 3000', 'with an option of the program'],
    ['passfd serve --import tsx --watch src/server.ts', 'for development, in TypeScript'],
    ['passfd serve --name shop -- npm start', 'a command'],
    ['passfd serve --takeover server.js', 'in the place of the one that runs, with a new passfd or Node']
  )
}

/** Serves until it is stopped. `words`: the program and its arguments. */
export async function serve(words: readonly string[], given: ServeOptions, ui: Ui, cwd = process.cwd()): Promise<void> {
  const options = { ...(await loadConfiguration(cwd, given.config)), ...given }
  const [program = options.program, ...args] = words
  if (program === undefined)
    throw new CommandError(EXIT.usage, 'No program is named', 'Name it: passfd serve server.js')
  const folder = resolve(cwd, options.cwd ?? '.')
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new CommandError(EXIT.noInput, `${folder} is no folder`, 'Check --cwd')
  const command = commandOf(program, words.length === 0 ? (options.args ?? []) : args, options, folder)
  const { env } = ui.streams
  const name = checkName(options.name ?? defaultName(cwd))
  runtimeFolder(true, { env })
  const seat = new Seat(options.takeover === true)
  const admin = new AdminLink(socketOf(name, { env }), options.admin)
  const supervisor = new Supervisor(
    supervisorOptions(options, {
      command,
      cwd: folder,
      env,
      colors: options.log !== 'json' && options.logFile === undefined && hasColors(ui.streams.stdout, env),
      admin: admin.path,
      takeover: { path: takeoverPathOf(name, { env }), authorize: peer => seat.admits(peer) }
    })
  )
  supervisor.once('state', () => seat.taken())
  supervisor.once('started', () => admin.make())
  supervisor.once('superseded', () => admin.leave())
  supervisor.once('stopped', () => admin.remove())
  const log = (report: Report): void => write(ui, report, options.log === 'json')
  reportEvents(supervisor, name, log)
  const output = await writeLines(supervisor, {
    format: options.log,
    file: options.logFile,
    streams: ui.streams,
    report: text => log({ event: 'output', level: 'warning', text })
  })
  try {
    await supervisor.run()
  } catch (error) {
    throw seat.explain(error as PassfdError, name)
  } finally {
    await output.close()
  }
}

/** Whether this server may replace one that runs. The takeover path decides, so that of two servers that start at once only one serves. */
class Seat {
  readonly #mayReplace: boolean
  readonly #user = process.geteuid!()
  #isTaken = false
  #owner: number | undefined

  constructor(mayReplace: boolean) {
    this.#mayReplace = mayReplace
  }

  /** From now on the other side is a successor. */
  taken(): void {
    this.#isTaken = true
  }

  admits({ pid, uid }: Peer): boolean {
    if (uid !== this.#user && uid !== 0) return false
    if (this.#isTaken || this.#mayReplace) return true
    this.#owner = pid
    return false
  }

  explain(error: PassfdError, name: string): Error {
    if (this.#owner === undefined) return error
    return new CommandError(
      EXIT.temporary,
      `Process ${this.#owner} serves as "${name}" already`,
      `Replace it with --takeover, stop it with "passfd stop ${name}", or choose another --name`,
      { code: error.code, cause: error }
    )
  }
}

function write(ui: Ui, { event, level, text, facts }: Report, json: boolean): void {
  if (json) {
    ui.note(JSON.stringify({ time: new Date().toISOString(), level, event, text, ...facts }))
    return
  }
  const { red, yellow } = ui.err
  const color = level === 'error' ? red : level === 'warning' ? yellow : (text: string) => text
  ui.note(`passfd: ${color(text)}.`)
}
