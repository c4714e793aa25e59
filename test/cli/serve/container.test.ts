// In CI only: it needs a namespace, and starts processes only
/** `passfd serve` as PID 1 of a container: docs/serve.md, "In a container". */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { start } from '../../helpers/process.ts'
import { childrenOf, zombies } from '../../helpers/processes.ts'
import { missing } from '../../helpers/programs.ts'
import { testInCiIf, until } from '../../helpers/test.ts'

const UNSHARE = '/usr/bin/unshare'
const PASSFD = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))

/** `/orphan` leaves a process behind that ends at once. `/slow` ends its answer at USR2. */
const SERVER = `
  const { spawn } = require('node:child_process')
  process.on('SIGUSR2', () => {})
  require('node:http').createServer(({ url }, response) => {
    if (url === '/slow') {
      response.write('begun ')
      process.on('SIGUSR2', () => response.end('done'))
      return
    }
    if (url === '/orphan') spawn('sh', ['-c', 'sleep 0.01 & echo $! >&2'], { stdio: ['ignore', 'ignore', 'inherit'] })
    response.end(process.pid + ' ' + process.ppid)
  }).listen(process.env.PORT, '127.0.0.1')
`

function open(port: number, path: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, path, agent: false }, resolve).on('error', reject)
  })
}

testInCiIf(
  missing(UNSHARE, 'util-linux') ?? missing('/usr/bin/nsenter', 'util-linux'),
  'as PID 1: it serves, reaps orphans, reloads by a command in the container, and TERM ends it gracefully with 0',
  async t => {
    const folder = temporaryPath('container')
    mkdirSync(folder)
    const program = join(folder, 'server.js')
    writeFileSync(program, SERVER)
    const port = await freePort()
    const env = { ...process.env, PORT: `${port}`, PASSFD_RUNTIME_DIR: join(folder, 'run') }
    const namespace = ['--pid', '--fork', '--mount-proc', '--kill-child']
    const serve = [PASSFD, 'serve', '-w', '2', '--name', 'app', '--lame-duck', '50ms', program]
    const { child, exit } = start(UNSHARE, [...namespace, process.execPath, ...serve], { env })
    let errors = ''
    child.stderr!.on('data', text => {
      errors += text
    })
    t.teardown(() => void child.kill('SIGKILL'))
    await until(() => / serves at /.test(errors), 'passfd serves')
    t.regex(errors, /: 2 workers, process 1, /)
    const [init] = childrenOf(child.pid!)
    t.regex(await text(await open(port, '/')), /^\d+ 1$/)

    await text(await open(port, '/orphan'))
    await until(() => /^\d+$/m.test(errors), 'the orphan')
    await until(() => childrenOf(init!).length === 2 && zombies(init!).length === 0, 'it is reaped')

    const inside = ['--target', `${init}`, '--pid', '--mount', process.execPath, PASSFD, 'reload', 'app', '--json']
    const reload = start('/usr/bin/nsenter', inside, { env })
    t.like(JSON.parse(await reload.line()), { reloaded: true, workers: 2 })
    t.is((await reload.exit).code, 0)

    const slow = await open(port, '/slow')
    const workers = childrenOf(init!)
    process.kill(init!, 'SIGTERM')
    while (await open(port, '/').then(text, () => undefined)); // until it is refused
    for (const worker of workers) spawnSync('kill', ['-USR2', `${worker}`]) // the idle one may have ended
    t.is(await text(slow), 'begun done')
    const { code, stderr } = await exit
    t.is(code, 0)
    t.regex(stderr, /app serves for another 50 ms, then stops\.\n(.*\n)*passfd: app has stopped\.\n$/)
    t.deepEqual(readdirSync(join(folder, 'run')), [])
  }
)
