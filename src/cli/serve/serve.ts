/** `passfd serve <program> [args…]`: a supervisor in the foreground, around any Node program. */
import { statSync } from 'node:fs'
import type { Command } from 'commander'
import type { PassfdError } from '../../index.ts'
import { foreignSystem } from '../../os/native.ts'
import { Supervisor, type SupervisorOptions } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { defaultName, runtimeFolder, socketOf, takeoverPathOf } from '../names.ts'
import { type Report, writeReport } from '../report.ts'
import { examples, hasColors, Ui } from '../ui.ts'
import { AdminLink } from './admin-link.ts'
import { Changes } from './changes.ts'
import { loadConfiguration } from './config.ts'
import { reportEvents } from './events.ts'
import { onHangup } from './hangup.ts'
import { type Metrics, serveMetrics } from './metrics.ts'
import { addOptions, type ServeOptions, withPaths } from './options.ts'
import { writeLines } from './output.ts'
import { servePlainly } from './plain.ts'
import { commandOf } from './program.ts'
import { Seat } from './seat.ts'
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
    ['passfd serve -w 2 --max-rss 300M server.js --port 3000', 'with an option of the program'],
    ['passfd serve --import tsx --watch src/server.ts', 'for development, in TypeScript'],
    ['passfd serve --name shop -- npm start', 'a command'],
    ['passfd serve --takeover server.js', 'in the place of the one that runs, with a new passfd or Node']
  )
}

/** What there is to serve, and how. */
interface Plan {
  readonly name: string
  readonly options: ServeOptions
  readonly command: readonly [string, ...string[]]
  /** Of the workers. */
  readonly cwd: string
  readonly ui: Ui
  log(report: Report): void
}

/** Serves until it is stopped. `words`: the program and its arguments. */
export async function serve(words: readonly string[], given: ServeOptions, ui: Ui, cwd = process.cwd()): Promise<void> {
  const plan = planOf(words, { ...(await loadConfiguration(cwd, given.config)), ...withPaths(given, cwd) }, ui, cwd)
  const plain = { ...plan, env: ui.streams.env }
  if (plan.options.watch === undefined)
    return foreignSystem === undefined ? serveOnce(plan) : servePlainly(plain, foreignSystem)
  await using changes = await Changes.watch(plan)
  if (foreignSystem !== undefined) return await servePlainly(plain, foreignSystem, changes)
  for (;;) {
    try {
      return await serveOnce(plan, changes)
    } catch (error) {
      const { code, message } = error as PassfdError
      if (code !== 'ERR_PASSFD_WORKER_NOT_READY') throw error
      if (!changes.hasNew)
        plan.log({ event: 'waiting', level: 'error', text: `${message} Waiting for a change of a file` })
      await changes.next()
    }
  }
}

/** Throws (exit code 64, 66 or 78) if there is no such program, folder or configuration. */
export function planOf(words: readonly string[], options: ServeOptions, ui: Ui, cwd: string): Plan {
  const [program = options.program, ...args] = words
  if (program === undefined)
    throw new CommandError(EXIT.usage, 'No program is named', 'Name it: passfd serve server.js')
  const folder = options.cwd ?? cwd
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new CommandError(EXIT.noInput, `${folder} is no folder`, 'Check --cwd')
  return {
    name: options.name ?? defaultName(cwd),
    options,
    command: commandOf(program, words.length === 0 ? (options.args ?? []) : args, options, folder),
    cwd: folder,
    ui,
    log: report => writeReport(ui, report, options.log === 'json')
  }
}

async function serveOnce({ name, options, command, cwd, ui, log }: Plan, changes?: Changes): Promise<void> {
  const { env, stdout } = ui.streams
  runtimeFolder(true, { env })
  const seat = new Seat(options.takeover === true)
  const takeoverPath = takeoverPathOf(name, { env })
  const admin = new AdminLink(socketOf(name, { env }), options.admin)
  const supervisor = supervisorOf(
    supervisorOptions(options, {
      command,
      cwd,
      env,
      colors: options.log !== 'json' && options.logFile === undefined && hasColors(stdout, env),
      admin: admin.path,
      takeover: { path: takeoverPath, authorize: peer => seat.admits(peer) }
    })
  )
  supervisor.once('state', () => seat.taken())
  supervisor.once('started', () => {
    try {
      admin.make()
    } catch (error) {
      const { message } = error as Error
      const text = `The name ${name} does not lead to ${admin.path}, by which this server is commanded (${message}). Give that path to the commands`
      log({ event: 'admin', level: 'warning', text })
    }
  })
  supervisor.once('superseded', () => admin.leave())
  supervisor.once('stopped', () => admin.remove())
  reportEvents(supervisor, name, log)
  const output = await writeLines(supervisor, {
    format: options.log,
    file: options.logFile,
    streams: ui.streams,
    report: text => log({ event: 'output', level: 'warning', text })
  })
  let metrics: Metrics | undefined
  changes?.reload(supervisor)
  const ignoreHangup = onHangup(() => {
    log({ event: 'hangup', level: 'warning', text: `The terminal of ${name} was closed, so it stops` })
    void supervisor.stop()
  })
  // Otherwise it would end this process, and a unit may send it
  const onUpgrade = (): void =>
    log({ event: 'upgrade', level: 'warning', text: 'USR2 starts a successor only if the command line has --takeover' })
  if (options.takeover !== true) process.on('SIGUSR2', onUpgrade)
  try {
    if (options.metrics !== undefined)
      metrics = await serveMetrics({
        address: options.metrics,
        supervisor,
        replaces: options.takeover === true,
        report: text => log({ event: 'metrics', level: 'warning', text })
      }).catch(async error => {
        // The server that runs under this name may have the address
        if (error.code === 'EADDRINUSE') await seat.look(takeoverPath)
        throw error
      })
    await supervisor.run({ upgrade: options.takeover === true })
  } catch (error) {
    throw seat.explain(error as PassfdError, name)
  } finally {
    process.off('SIGUSR2', onUpgrade)
    ignoreHangup()
    await metrics?.close()
    await output.close()
  }
}

/** Only the library checks objects of listeners and balance, which a command line does not have. */
function supervisorOf(options: SupervisorOptions): Supervisor {
  try {
    return new Supervisor(options)
  } catch (error) {
    const { code, message } = error as PassfdError
    if (code !== 'ERR_PASSFD_INVALID_ARGUMENT') throw error
    const what = `In the configuration ${message.replace(/^options\./, '').replace(/^listeners\b/, 'listen')}`
    throw new CommandError(EXIT.config, what.replace(/\.$/, ''), undefined, { code, cause: error })
  }
}
