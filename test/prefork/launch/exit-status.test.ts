import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { exitReason } from '../../../src/prefork/launch/exit-status.ts'
import { systemPython } from '../../helpers/programs.ts'
import { test } from '../../helpers/test.ts'

/** What becomes of a real process. */
async function reasonOf(command: string, ...args: string[]): Promise<string> {
  const child = spawn(command, args, { stdio: 'ignore' })
  const [code, signal] = await once(child, 'exit')
  return exitReason(code, signal)
}

test('codes of no particular meaning stand alone', t => {
  for (const code of [0, 1, 2, 3, 4, 6, 8, 10, 11, 64, 78, 128, 255, 200])
    t.is(exitReason(code, null), `exited with code ${code}`)
})

test('a signal has its name and its words', async t => {
  t.is(await reasonOf('sh', '-c', 'kill -SEGV $$'), 'was killed by SIGSEGV (Segmentation fault)')
  t.is(await reasonOf('sh', '-c', 'kill -KILL $$'), 'was killed by SIGKILL (Killed)')
  for (const signal of Object.keys(constants.signals))
    t.regex(
      exitReason(null, signal as NodeJS.Signals),
      new RegExp(`^was killed by ${signal} \\([A-Z][ /()a-zA-Z0-9]+\\)$`)
    )
})

test('the words are those of strsignal(3)', async t => {
  const child = spawn(systemPython, ['-c', PRINT_SIGNALS], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', more => {
    text += more
  })
  await once(child, 'close')
  const lines = text.trim().split('\n')
  t.true(lines.length >= 30)
  for (const line of lines) {
    const [name, description] = line.split(':') as [NodeJS.Signals, string]
    t.is(exitReason(null, name), `was killed by ${name} (${description})`)
  }
})

const PRINT_SIGNALS = `
import signal
for each in signal.valid_signals():
    if hasattr(each, 'name') and not each.name.startswith('SIGRT'):
        print(each.name + ':' + signal.strsignal(each))`

test("Node's own codes are explained", async t => {
  const node = (...args: string[]) => reasonOf(process.execPath, ...args)
  t.regex(
    await node('--input-type=module', '-e', 'await new Promise(() => {})'),
    /^exited with code 13 \(in Node: a top/
  )
  t.regex(await node('--no-such-option'), /^exited with code 9 \(in Node: an option/)
  t.regex(
    await node('-e', "process.on('uncaughtException', () => { throw 1 }); throw 0"),
    /^exited with code 7 \(in Node: an 'uncaughtException' handler/
  )
  t.regex(exitReason(12, null), /--inspect/)
  t.is(await node('-e', 'throw 0'), 'exited with code 1')
})

test("a shell's codes are explained, with the signal that they stand for", async t => {
  t.is(
    await reasonOf('sh', '-c', 'sh -c "kill -TERM \\$\\$"; exit $?'),
    'exited with code 143 (from a shell or another program in between: killed by SIGTERM (Terminated))'
  )
  t.is(await reasonOf('sh', '-c', '/nowhere/at-all'), 'exited with code 127 (from a shell: the program was not found)')
  t.is(
    await reasonOf('sh', '-c', '/etc/passwd'),
    'exited with code 126 (from a shell: the program was found and can not be executed)'
  )
})

test('when nothing is known, that is said', t => {
  t.is(exitReason(null, null), 'ended, and how is not known')
})
