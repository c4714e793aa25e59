import { closeSync, openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { CommandError, EXIT } from '../../src/cli/exit.ts'
import { examples, examplesOf, Ui } from '../../src/cli/ui.ts'
import { version } from '../../src/index.ts'
import { allCommands, captured, runPassfd } from '../helpers/cli.ts'
import { start } from '../helpers/process.ts'
import { test, testInCi } from '../helpers/test.ts'

/** A program with one command, which does `work`. */
function one(work: (ui: Ui) => void | Promise<void>): (program: Command) => void {
  return program => {
    const command = program
      .command('one')
      .description('do one thing')
      .option('--json', 'print JSON')
      .action(() => work(new Ui(command)))
    examples(command, ['passfd one', 'one thing'])
  }
}

test('the version and the help are results', async t => {
  t.deepEqual(await runPassfd(['--version']), { code: 0, out: `${version}\n`, err: '' })
  const { code, out, err } = await runPassfd(['--help'])
  t.deepEqual({ code, err }, { code: 0, err: '' })
  t.regex(out, /^Usage: passfd /)
})

test('the help of each command ends with examples of it', t => {
  for (const [name, command] of allCommands()) {
    if (command.commands.length > 0 || name === 'help') continue
    const list = examplesOf(command)
    t.true(list.length > 0, name)
    for (const [line] of list) t.true(line.includes(`passfd ${name}`), line)
  }
})

test('without a command it prints the help on stderr', async t => {
  const { code, out, err } = await runPassfd([], captured(), [one(() => {})])
  t.deepEqual({ code, out }, { code: EXIT.usage, out: '' })
  t.regex(err, /^Usage: passfd /)
})

test('what is wrong with a command line is one line, with the nearest right one', async t => {
  const modules = [one(() => {})]
  const wrong = async (...args: string[]) => {
    const { code, out, err } = await runPassfd(args, captured(), modules)
    t.deepEqual({ code, out }, { code: EXIT.usage, out: '' })
    return err
  }
  t.is(await wrong('oen'), "passfd: unknown command 'oen'. Did you mean one?\n")
  t.is(await wrong('one', '--jsn'), "passfd: unknown option '--jsn'. Did you mean --json?\n")
  t.is(
    await wrong('one', 'two'),
    'passfd: too many arguments for \'one\'. Expected 0 arguments but got 1. Run "passfd one --help".\n'
  )
  t.deepEqual(JSON.parse(await wrong('one', '--json', 'two')).error.code, 'ERR_PASSFD_INVALID_ARGUMENT')
})

test('results are on stdout, notes on stderr; with --json the value', async t => {
  const work = (ui: Ui): void => {
    ui.note('working')
    ui.result({ done: true }, 'Done.')
  }
  t.deepEqual(await runPassfd(['one'], captured(), [one(work)]), { code: 0, out: 'Done.\n', err: 'working\n' })
  t.is((await runPassfd(['one', '--json'], captured(), [one(work)])).out, '{"done":true}\n')
})

test('an error is one line with its remedy, and no stack', async t => {
  const fail = (error: unknown, args = ['one'], env = {}) =>
    runPassfd(args, captured(env), [
      one(() => {
        throw error
      })
    ])
  const error = new CommandError(EXIT.unavailable, 'Nobody is there', 'Call again', { code: 'ENOENT' })
  t.deepEqual(await fail(error), { code: 69, out: '', err: 'passfd: Nobody is there. Call again.\n' })
  t.deepEqual(JSON.parse((await fail(error, ['one', '--json'])).err), {
    error: { code: 'ENOENT', message: 'Nobody is there. Call again.' }
  })
  const fault = await fail(new TypeError('x is not\na function'))
  t.is(fault.code, EXIT.internal)
  t.regex(fault.err, /^passfd: TypeError: x is not a function\. .*PASSFD_DEBUG=1.*\.\n$/)
  t.regex((await fail(new TypeError('x'), ['one'], { PASSFD_DEBUG: '1' })).err, /\n {4}at /)
})

test('colours are for terminals, unless NO_COLOR or TERM=dumb', async t => {
  const shown = async (env: Record<string, string>, terminal: boolean) =>
    (await runPassfd(['one'], captured(env, { terminal }), [one(ui => ui.print(ui.out.red('red')))])).out
  t.is(await shown({}, true), '\x1b[31mred\x1b[39m\n')
  t.is(await shown({}, false), 'red\n')
  t.is(await shown({ NO_COLOR: '1' }, true), 'red\n')
  t.is(await shown({ NO_COLOR: '' }, true), '\x1b[31mred\x1b[39m\n')
  t.is(await shown({ TERM: 'dumb' }, true), 'red\n')
})

testInCi('a full disk behind stdout is reported; behind stderr it ends nothing', async t => {
  const full = openSync('/dev/full', 'w')
  const program = fileURLToPath(new URL('../../dist/cli/passfd.mjs', import.meta.url))
  const [help, none] = await Promise.all([
    start(program, ['--help'], { stdio: ['ignore', full, 'pipe'] }).exit,
    start(program, ['serve', 'none.js'], { stdio: ['ignore', 'pipe', full] }).exit
  ])
  closeSync(full)
  t.like(help, { code: EXIT.io, stderr: 'passfd: stdout: no space left on device (ENOSPC, write).\n' })
  t.like(none, { code: EXIT.noInput })
})
