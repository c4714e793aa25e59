// In CI only: it starts a shell for each example.
// A process of its own: it sets the variables of the runtime folder for the programs that it starts.
/** The examples in the help of `passfd store` and of its commands, run by a shell. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { examplesOf } from '../../../src/cli/ui.ts'
import { Descriptor } from '../../../src/index.ts'
import { connectStore, openStore } from '../../../src/store/index.ts'
import { allCommands } from '../../helpers/cli.ts'
import { type Running, start } from '../../helpers/process.ts'
import { testInCi, until } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))

interface Place {
  readonly folder: string
  readonly socket: string
  /** Starts an example in the place of its shell. Absolute paths lie in the folder, and ports are free ones. */
  run(line: string): Running
}

function place(): Place {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-examples-'))
  for (const name of ['bin', 'run', 'var', 'var/log']) mkdirSync(join(folder, name), { mode: 0o700 })
  symlinkSync(command, join(folder, 'bin', 'passfd'))
  writeFileSync(join(folder, 'data.csv'), 'a,b\n')
  writeFileSync(join(folder, 'server.js'), 'console.log(process.env.LISTEN_FDNAMES)')
  writeFileSync(join(folder, 'server.sh'), '#!/bin/sh\necho $LISTEN_FDNAMES\n')
  chmodSync(join(folder, 'server.sh'), 0o755)
  const env = { ...process.env, PATH: `${folder}/bin:${process.env.PATH}`, PASSFD_RUNTIME_DIR: join(folder, 'run') }
  const local = (line: string): string => line.replaceAll(/(^|[ =])\/var\//g, `$1${folder}/var/`).replace(':8080', ':0')
  return {
    folder,
    socket: join(folder, 'run/store.socket'),
    run: line => start('/bin/sh', ['-c', `exec ${local(line)}`], { cwd: folder, env })
  }
}

function linesOf(name: string): string[] {
  const lines = examplesOf(allCommands().get(name)!).map(([line]) => line)
  if (lines.length === 0) throw new Error(`no examples of ${name}`)
  return lines
}

testInCi('passfd store', async t => {
  const { folder, run } = place()
  let before: Running | undefined
  for (const line of linesOf('store')) {
    const running = run(line)
    if (/ put /.test(line)) {
      t.like(await running.exit, { code: 0 }, line)
      continue
    }
    let said = ''
    running.child.stderr!.on('data', text => {
      said += text
    })
    await until(() => said.includes('the store listens at') || running.child.exitCode !== null, line)
    t.is(running.child.exitCode, null, said)
    if (line.includes('--takeover')) t.like(await before!.exit, { code: 0 })
    if (line.includes('./store.socket')) {
      running.child.kill()
      t.like(await running.exit, { code: 0 })
    } else before = running
  }
  before!.child.kill()
  t.like(await before!.exit, { code: 0 })
  rmSync(folder, { recursive: true })
})

testInCi('its commands', async t => {
  const { folder, socket, run } = place()
  await using store = await openStore(socket)
  await using client = await connectStore(socket)
  for (const line of linesOf('store put')) t.like(await run(line).exit, { code: 0 }, line)
  t.is(store.status.names, 3)
  for (const line of linesOf('store list')) {
    const running = run(line)
    t.regex(await running.line(), line.includes('--json') ? /^\[\{/ : line.includes('web') ? /holds nothing/ : /^NAME /)
    t.like(await running.exit, { code: 0, stderr: '' }, line)
  }
  const watching = linesOf('store watch').map(run)
  t.regex(await watching[0]!.line(), /^\S+ {2}http \(tcp-listener\) of user \d+ is there$/)
  t.regex(await watching[1]!.line(), /"event":"list","entries":\[\]/)
  for (const { child, exit } of watching) {
    child.kill()
    await exit
  }
  for (const line of linesOf('store copy')) {
    const running = run(line)
    t.regex(await running.line(), / (--|--exec) /.test(line) ? /^http(:log)?$/ : /^\{"name":"http"/, line)
    t.like(await running.exit, { code: 0, stderr: '' }, line)
  }
  for (const line of linesOf('store take')) {
    const running = run(line)
    t.regex(await running.line(), line.includes('wc') ? /^1$/ : /^http$/, line)
    t.like(await running.exit, { code: 0, stderr: '' }, line)
  }
  for (const name of ['http', 'job']) await client.put(name, Descriptor.openSync('/dev/null'))
  for (const line of linesOf('store remove')) t.like(await run(line).exit, { code: 0 }, line)
  t.is(store.status.names, 0)
  rmSync(folder, { recursive: true })
})
