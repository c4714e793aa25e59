/** The examples in the help of serve and of the commands to a server, run by a shell in a package called "shop". */
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { examplesOf } from '../../src/cli/ui.ts'
import { allCommands } from '../helpers/cli.ts'
import { freePort } from '../helpers/port.ts'
import { type Running, start } from '../helpers/process.ts'
import { testInCi, until } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const SERVER = `require('node:http').createServer((_, response) => {
  console.log('a request')
  response.end('hello')
}).listen(process.env.PORT, '127.0.0.1')`
const IN_TYPESCRIPT = `import { createServer } from 'node:http'
const port: string = process.env.PORT!
createServer((_, response) => response.end('hello')).listen(port, '127.0.0.1')`

function linesOf(name: string): string[] {
  const lines = examplesOf(allCommands().get(name)!).map(([line]) => line)
  if (lines.length === 0) throw new Error(`no examples of ${name}`)
  return lines
}

testInCi('passfd serve, status, reload, scale, logs and stop', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-examples-'))
  for (const name of ['bin', 'src']) mkdirSync(join(folder, name))
  symlinkSync(join(root, 'dist/cli/passfd.mjs'), join(folder, 'bin/passfd'))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  // Fewer workers than there are processors are enough here
  const manifest = { name: '@me/shop', scripts: { start: 'node server.js' }, passfd: { workers: 1 } }
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest))
  writeFileSync(join(folder, 'server.js'), SERVER)
  writeFileSync(join(folder, 'src/server.ts'), IN_TYPESCRIPT)
  const port = await freePort()
  const env = {
    ...process.env,
    PATH: `${folder}/bin:${process.env.PATH}`,
    PASSFD_RUNTIME_DIR: join(folder, 'run'),
    PORT: String(port)
  }
  const run = (line: string): Running => start('/bin/sh', ['-c', line], { cwd: folder, env })
  const served = async (line: string): Promise<Running> => {
    const running = run(line)
    let said = ''
    running.child.stderr!.on('data', text => {
      said += text
    })
    await until(() => running.child.exitCode !== null || said.includes(' serves at '), line, 60)
    t.is(running.child.exitCode, null, said)
    return running
  }
  const ask = async (): Promise<void> => {
    const [response] = await once(get({ port, host: '127.0.0.1', agent: false }), 'response')
    await once(response.resume(), 'end')
  }

  for (const line of linesOf('serve')) {
    const isFirst = line === 'passfd serve server.js'
    const running = await served(isFirst || !line.includes('--takeover') ? line : 'passfd serve -w 1 server.js')
    const last = line.includes('--takeover') ? await served(line) : running
    await ask()
    if (isFirst) {
      for (const other of ['status', 'reload', 'scale'].flatMap(linesOf))
        t.like(await run(other).exit, { code: 0, stderr: '' }, other)
      const followers = linesOf('logs').map(run)
      let seen = 0
      for (const follower of followers) void follower.line().then(() => seen++)
      while (seen < followers.length) await ask()
      for (const stop of linesOf('stop').slice(0, 1)) t.like(await run(stop).exit, { code: 0, stderr: '' }, stop)
      for (const follower of followers) t.is((await follower.exit).code, 0)
    } else t.like(await run(linesOf('stop')[1]!).exit, { code: 0, stderr: '' }, line)
    for (const { exit } of new Set([running, last])) t.is((await exit).code, 0, line)
  }
  t.is(linesOf('stop').length, 2)
  rmSync(folder, { recursive: true })
})
