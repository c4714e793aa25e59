// In CI only: it starts a shell for each example.
// A process of its own: it sets the variables of the runtime folder for the programs that it starts.
/** The examples in the help of the shell's commands, run by a shell. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { examplesOf } from '../../../src/cli/ui.ts'
import { connect, Descriptor, listen } from '../../../src/index.ts'
import { allCommands } from '../../helpers/cli.ts'
import { type Running, start } from '../../helpers/process.ts'
import { end, first } from '../../helpers/seats.ts'
import { listens } from '../../helpers/shell.ts'
import { testInCi } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))

interface Place {
  folder: string
  /** Starts an example. Absolute paths lie in the folder, and ports are free ones. */
  run(line: string): Running
}

function place(): Place {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-examples-'))
  for (const name of ['bin', 'run', 'run/app', 'var', 'var/log']) mkdirSync(join(folder, name), { mode: 0o700 })
  symlinkSync(command, join(folder, 'bin', 'passfd'))
  const env = { ...process.env, PATH: `${folder}/bin:${process.env.PATH}`, PASSFD_RUNTIME_DIR: join(folder, 'run') }
  const local = (line: string): string =>
    line.replaceAll(/(^|[ =])\/(run|var)\//g, `$1${folder}/$2/`).replace(':8080', ':0')
  return { folder, run: line => start('/bin/sh', ['-c', local(line)], { cwd: folder, env }) }
}

function linesOf(name: string): string[] {
  const lines = examplesOf(allCommands().get(name)!).map(([line]) => line)
  if (lines.length === 0) throw new Error(`no examples of ${name}`)
  return lines
}

testInCi('passfd send', async t => {
  const { folder, run } = place()
  for (const name of ['var/log/app.log', 'data.csv']) writeFileSync(join(folder, name), 'hello')
  const values: any[] = []
  const servers = await Promise.all(['app.sock', 'run/app.sock'].map(name => listen(join(folder, name))))
  for (const server of servers)
    server.serve(({ value, descriptors }) => {
      values.push(value)
      return descriptors.length === 0 ? 'answer' : undefined
    })
  for (const line of linesOf('send')) t.like(await run(line).exit, { code: 0 }, line)
  t.deepEqual(
    values.map(value => (typeof value === 'string' ? value : Object.keys(value).join())),
    ['log', 'job,in', 'http', 'status']
  )
  for (const server of servers) await server.close()
  rmSync(folder, { recursive: true })
})

testInCi('passfd receive', async t => {
  const { folder, run } = place()
  const path = join(folder, 'app.sock')
  mkdirSync(join(folder, 'inbox'))
  writeFileSync(join(folder, 'worker.sh'), '#!/bin/sh\nkill -TERM $PPID\n')
  chmodSync(join(folder, 'worker.sh'), 0o755)
  for (const line of linesOf('receive')) {
    const running = run(line)
    await listens(running)
    const count = Number(/--count (\d+)/.exec(line)?.[1] ?? 1)
    const isForever = line.includes('--forever')
    for (let i = 0; i < count; i++) {
      const channel = await connect(path)
      const { readable, writable } = Descriptor.pipe()
      writable.close()
      await channel.send({ [`file${i}`]: readable })
      await channel.close()
    }
    t.like(await running.exit, { code: isForever ? 143 : 0 }, line)
  }
  t.is(readdirSync(join(folder, 'inbox')).length, 10)
  rmSync(folder, { recursive: true })
})

testInCi('passfd inspect and takeover status', async t => {
  const { folder, run } = place()
  const server = await listen(join(folder, 'run/app.sock'))
  const named = await first(join(folder, 'run/app.takeover'))
  const placed = await first(join(folder, 'run/app/takeover'))
  for (const line of [...linesOf('inspect'), ...linesOf('takeover status')]) {
    const running = run(line)
    t.regex(await running.line(), line.includes('--json') ? /^\{/ : /^(process \d+|\/.*app\.sock)/, line)
    t.like(await running.exit, { code: 0, stderr: '' }, line)
  }
  await end(named.seat, placed.seat)
  await server.close()
  rmSync(folder, { recursive: true })
})
