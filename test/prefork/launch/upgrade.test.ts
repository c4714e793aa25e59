/** USR2 starts the command line anew as a successor; test/systemd/manager.test.ts does it under systemd. */

import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Supervisor } from '../../../src/prefork/index.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { type Running, start } from '../../helpers/process.ts'
import { childrenOf, gone, lives } from '../../helpers/processes.ts'
import { test, until } from '../../helpers/test.ts'

const fixture = fileURLToPath(new URL('../../fixtures/systemd-prefork.mjs', import.meta.url))

interface Served {
  running: Running
  ask(): Promise<string>
  stderr(): string
}

async function served(program: string, ...more: string[]): Promise<Served> {
  const served = begun(program, {}, ...more)
  if ((await served.running.line()) !== 'started') throw new Error('it did not start')
  return served
}

/** Does not wait until it serves. */
function begun(program: string, variables: NodeJS.ProcessEnv, ...more: string[]): Served {
  const path = socketPath()
  const options = JSON.stringify({ takeover: socketPath(), readyTimeout: 10_000 })
  const env = { ...process.env, NODE_NO_WARNINGS: undefined, ...variables }
  const running = start(process.execPath, [program, path, options, '{"upgrade":true}', ...more], { env })
  let stderr = ''
  running.child.stderr!.on('data', part => {
    stderr += part
  })
  const ask = (): Promise<string> =>
    new Promise((resolve, reject) => {
      get({ socketPath: path, agent: false }, response => void text(response).then(resolve, reject)).once(
        'error',
        reject
      )
    })
  return { running, ask, stderr: () => stderr }
}

test('the same command line, arguments and all, no child of the predecessor; signals in a row start one', async t => {
  const { running, ask } = await served(fixture, 'an argument', 'it\'s "one" $HOME')
  const first = running.child.pid!
  t.is(await ask(), `${first}`)
  running.child.kill('SIGUSR2')
  running.child.kill('SIGUSR2')
  // Its successor has its stdout and stderr, too
  t.deepEqual(await once(running.child, 'exit'), [0, null])
  const second = Number(await ask())
  t.not(second, first)
  const command = (pid: number): string[] => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  t.deepEqual(command(second).slice(1), [fixture, ...running.child.spawnargs.slice(2), ''])
  t.is(childrenOf(second).length, 2)
  t.is(readlinkSync(`/proc/${second}/fd/0`), '/dev/null')
  process.kill(second, 'SIGTERM')
  await until(() => !lives(second), 'the successor ends')
  await running.exit
})

test('a successor that fails is reported, and another one can follow', async t => {
  const program = temporaryPath('program').replace(/-(\d+)$/, '-$1.mjs')
  const good = readFileSync(fixture, 'utf8').replaceAll(
    '../../build',
    new URL('../../../build', import.meta.url).pathname
  )
  writeFileSync(program, good)
  const { running, ask, stderr } = await served(program)
  const first = running.child.pid!
  writeFileSync(program, 'process.exit(3)')
  running.child.kill('SIGUSR2')
  await until(() => /successor.* This process goes on\./.test(stderr()), 'the report')
  t.is(await ask(), `${first}`)
  writeFileSync(program, good)
  running.child.kill('SIGUSR2')
  t.deepEqual(await once(running.child, 'exit'), [0, null])
  const second = Number(await ask())
  t.not(second, first)
  process.kill(second, 'SIGTERM')
  await until(() => !lives(second), 'the successor ends')
  await running.exit
})

test('a signal during the start counts when it serves', async t => {
  const gate = temporaryPath('gate')
  const { running, ask } = begun(fixture, { GATE: gate })
  const first = running.child.pid!
  await until(() => childrenOf(first).length === 2, 'the workers')
  running.child.kill('SIGUSR2')
  running.child.kill('SIGUSR2')
  writeFileSync(gate, '')
  t.is(await running.line(), 'started')
  t.deepEqual(await once(running.child, 'exit'), [0, null])
  const second = Number(await ask())
  t.not(second, first)
  process.kill(second, 'SIGTERM')
  await gone(second)
  await running.exit
})

test('a stop ends a successor that is starting, and no other one starts', async t => {
  const gate = temporaryPath('gate')
  writeFileSync(gate, '')
  const { running, ask } = begun(fixture, { GATE: gate })
  t.is(await running.line(), 'started')
  const first = running.child.pid!
  t.is(await ask(), `${first}`)
  rmSync(gate)
  running.child.kill('SIGUSR2')
  const second = (): number | undefined => successorOf(first, running.child.spawnargs)
  let successor = 0
  await until(() => {
    successor = second() ?? 0
    return workersOf(successor) === 2
  }, 'the successor and its workers')
  running.child.kill('SIGTERM')
  running.child.kill('SIGUSR2')
  // Nobody else has its output then
  t.is((await running.exit).code, 0)
  t.false(lives(successor))
  t.is(second(), undefined)
})

/** Another process with its command line, after the shells that start it. */
function successorOf(first: number, command: readonly string[]): number | undefined {
  const wanted = [...command.slice(1), ''].join('\0')
  return readdirSync('/proc')
    .map(Number)
    .find(pid => pid > 0 && pid !== first && commandOf(pid) === `${process.execPath}\0${wanted}`)
}

/** What is found first may be a process between its fork and its exec: it has the command line of its parent, and may have ended since. */
function workersOf(pid: number): number {
  try {
    return childrenOf(pid).length
  } catch {
    return 0
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return '' // it has ended
  }
}

test('it takes the option takeover', async t => {
  const supervisor = new Supervisor({ entry: fixture, listeners: { http: { port: 0 } } })
  await t.throwsAsync(supervisor.run({ upgrade: true }), {
    code: 'ERR_PASSFD_INVALID_ARGUMENT',
    message: /options\.upgrade/
  })
  await t.throwsAsync(supervisor.run({ upgrade: 1 as never }), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
})
