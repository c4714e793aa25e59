/** An unmodified program under `passfd serve`: the worker is the one of all others, and nothing in it knows of passfd. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { folder, listenAt, near, newServer, role, untilEnd, WORKERS } from '../prefork.mjs'

const PASSFD = fileURLToPath(new URL('../../dist/cli/passfd.mjs', import.meta.url))
const SERVING = / serves at /

async function parent() {
  const options = ['--name', 'bench', '--workers', String(WORKERS), '--admin', join(folder, 'admin')]
  // This process may be killed, and then nothing is to be left of it
  const command = ['--pdeathsig', 'TERM', process.execPath]
  const child = spawn('setpriv', [...command, PASSFD, 'serve', ...options, process.argv[1], process.argv[2]], {
    env: { ...process.env, BENCH_ROLE: 'worker', PASSFD_RUNTIME_DIR: folder },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const exited = once(child, 'exit')
  let ending = false
  exited.then(() => ending || process.exit(1))
  process.once('exit', () => child.kill())
  const lines = [child.stdout, child.stderr].map(input => createInterface({ input }))
  await new Promise(resolve => {
    for (const line of lines) line.on('line', text => (SERVING.test(text) ? resolve() : ending || console.error(text)))
  })
  await untilEnd(async () => {
    ending = true
    child.kill()
    const [code] = await exited
    process.exit(code)
  })
}

await { near: () => near({ strict: true }), parent, worker: () => newServer().listen(listenAt) }[role]()
