/** The command `passfd`: its commands, and how it ends. */
import { Command, CommanderError } from 'commander'
import { version } from '../index.ts'
import { register as command } from './command/command.ts'
import { register as logs } from './command/logs.ts'
import { register as completions } from './completions/completions.ts'
import { EXIT, type ExitCode, ExitWith, failureOf } from './exit.ts'
import { register as serve } from './serve/serve.ts'
import { register as unit } from './serve/unit.ts'
import { register as shell } from './shell/shell.ts'
import { register as store } from './store/store.ts'
import { register as top } from './top/top.ts'
import { examples, type Streams, useStreams } from './ui.ts'

/** Each adds its commands to the program. */
const MODULES: readonly ((program: Command) => void)[] = [serve, command, logs, top, shell, store, unit, completions]

/** The program with all its commands. */
export function passfd(streams: Streams = process, modules = MODULES): Command {
  const program = new Command('passfd')
  program
    .description(
      'Serves any Node program in several processes and replaces it without losing a request; passes descriptors between processes.'
    )
    .version(version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand('help [command]', 'print help for a command')
    .enablePositionalOptions() // the options of a served program stand behind its name
    .configureHelp({
      subcommandTerm: command => command.name(),
      // The first sentence: the command's own help has the others
      subcommandDescription: command => command.description().replace(/[.:] .*$/s, '.')
    })
    .exitOverride()
  useStreams(program, streams)
  for (const register of modules) register(program)
  examples(
    program,
    ['passfd serve server.js', 'serve a program in as many workers as there are processors'],
    ['passfd serve --help', 'all options, with examples']
  )
  return program
}

/**
 * Runs a command line, without Node and the script. Resolves with its exit code; errors are written to stderr. `endBy`: called if the process is to end by a
 * signal; where it returns, the exit code is 128 and the signal's number.
 */
export async function main(
  args: readonly string[],
  streams: Streams = process,
  modules = MODULES,
  endBy: (signal: NodeJS.Signals) => void = () => {}
): Promise<number> {
  const program = passfd(streams, modules)
  let running: Command | undefined
  program.hook('preAction', (_, action) => {
    running = action
  })
  try {
    await program.parseAsync(args, { from: 'user' })
    return Number(process.exitCode ?? EXIT.ok)
  } catch (error) {
    if (error instanceof ExitWith) {
      if (error.signal !== undefined) endBy(error.signal)
      return error.exitCode
    }
    if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok
    // It has printed the help, because no command was named
    if (error instanceof CommanderError && error.code === 'commander.help') return EXIT.usage
    const failure = error instanceof CommanderError ? usageError(error, named(program, args)) : failureOf(error)
    if (streams.env.PASSFD_DEBUG) streams.stderr.write(`${(error as Error).stack}\n`)
    const json = running === undefined ? args.includes('--json') : wantsJson(running)
    const { code, message } = failure
    streams.stderr.write(json ? `${JSON.stringify({ error: { code, message } })}\n` : `passfd: ${message}\n`)
    return failure.exitCode
  }
}

function wantsJson(command: Command): boolean {
  const { json, log } = command.opts()
  return json === true || log === 'json'
}

/** commander's own errors are about the command line. */
function usageError(
  { message }: CommanderError,
  command: string
): { exitCode: ExitCode; message: string; code: string } {
  const [, what = message, , nearest] = /^(?:error: )?(.*?)\.?(\n\(Did you mean (.*)\?\))?$/s.exec(message) ?? []
  const remedy = nearest === undefined ? `Run "${command} --help".` : `Did you mean ${nearest}?`
  return {
    exitCode: EXIT.usage,
    message: `${what.replace(/\s*\n\s*/g, ' ')}. ${remedy}`,
    code: 'ERR_PASSFD_INVALID_ARGUMENT'
  }
}

/** The command that a command line means: 'passfd one'. */
function named(program: Command, args: readonly string[]): string {
  let [command, name] = [program, program.name()]
  for (const arg of args) {
    const next = command.commands.find(each => each.name() === arg)
    if (next === undefined) break
    command = next
    name += ` ${arg}`
  }
  return name
}
