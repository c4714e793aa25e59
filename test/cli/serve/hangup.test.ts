import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onHangup } from '../../../src/cli/serve/hangup.ts'
import { startInTerminal } from '../../helpers/pty.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

const PASSFD = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))

test('SIGHUP means the end only if all terminals of the process are gone', t => {
  let stops = 0
  const stop = (): void => void stops++
  const terminals = new Set([0, 1])
  const listeners = [
    onHangup(stop, fd => terminals.has(fd)),
    onHangup(
      () => t.fail(),
      () => false
    )
  ]
  process.emit('SIGHUP')
  terminals.delete(0)
  process.emit('SIGHUP')
  t.is(stops, 0)
  terminals.clear()
  process.emit('SIGHUP')
  t.is(stops, 1)
  for (const ignore of listeners) ignore()
  t.is(process.listenerCount('SIGHUP'), 0)
})

test('SIGHUP that comes before the end of the terminal means the end, too', async t => {
  let stops = 0
  let isThere = true
  const ignore = onHangup(
    () => void stops++,
    fd => fd === 0 && isThere
  )
  process.emit('SIGHUP')
  process.emit('SIGHUP')
  t.is(stops, 0)
  isThere = false
  await until(() => stops > 0, 'the stop')
  ignore()
  t.is(stops, 1)
})

testInCi('a server whose terminal is closed stops', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-hangup-'))
  const program = join(folder, 'server.js')
  writeFileSync(program, "require('node:http').createServer(() => {}).listen(0, '127.0.0.1')")
  const env = { PASSFD_RUNTIME_DIR: join(folder, 'run') }
  const server = startInTerminal(PASSFD, ['serve', '-w', '1', '--name', 'app', program], { env })
  await server.shows(/passfd: app serves at /)
  process.kill(server.pid, 'SIGHUP')
  await server.shows(/passfd: Worker 0 \(pid \d+\) has ended/)
  t.true(readdirSync(join(folder, 'run')).includes('app.sock'))
  server.close()
  await until(() => !readdirSync(join(folder, 'run')).includes('app.sock'), 'the server to stop')
  rmSync(folder, { recursive: true })
})

testInCi(
  'a server in the background of a shell stops with it, although its signal comes before the end of the terminal',
  async t => {
    const folder = mkdtempSync(join(tmpdir(), 'passfd-hangup-'))
    const program = join(folder, 'server.js')
    writeFileSync(program, "require('node:http').createServer(() => {}).listen(0, '127.0.0.1')")
    const shell = startInTerminal('/bin/bash', ['--norc', '-i'], {
      env: { PASSFD_RUNTIME_DIR: join(folder, 'run'), PS1: '$ ' }
    })
    shell.type(`${PASSFD} serve -w 1 --name app ${program} &\n`)
    await shell.shows(/passfd: app serves at /)
    process.kill(shell.pid, 'SIGHUP') // as a terminal's window does before it closes; the shell repeats it to its jobs, and ends
    await until(() => !readdirSync(join(folder, 'run')).includes('app.sock'), 'the server to stop')
    shell.close()
    rmSync(folder, { recursive: true })
    t.pass()
  }
)
