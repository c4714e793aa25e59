/** `passfd serve` on other systems than Linux, as Node would name them, without the native part. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { restrictions } from '../../../src/cli/serve/plain.ts'
import { copyPackage } from '../../helpers/copies.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { type Running, start } from '../../helpers/process.ts'
import { lives } from '../../helpers/processes.ts'
import { test, until } from '../../helpers/test.ts'

const copy = copyPackage('copy')
fs.rmSync(join(copy.folder, 'native'), { recursive: true })
const command = join(copy.folder, 'dist/cli/passfd.mjs')

interface Served extends Running {
  /** All that it has written to stderr. */
  said(): string
}

function serve(platform: string, folder: string, ...args: string[]): Served {
  const fake = `data:text/javascript,Object.defineProperty(process,'platform',{value:'${platform}'})`
  const { PATH, HOME } = process.env
  const running = start(process.execPath, ['--import', fake, command, 'serve', ...args], {
    cwd: folder,
    env: { PATH, HOME }
  })
  let said = ''
  running.child.stderr!.on('data', text => {
    said += text
  })
  return { ...running, said: () => said }
}

/** A program that says its version, serves, and at TERM says goodbye. */
function writeServer(folder: string, version: string, port: number): void {
  const source = `
    const server = require('node:http').createServer((_, response) => response.end('${version}')).listen(${port}, '127.0.0.1')
    process.on('SIGTERM', () => { console.log('goodbye'); server.close(); server.closeAllConnections() })
    server.on('listening', () => console.log('${version}', process.pid))`
  fs.writeFileSync(join(folder, 'new'), source)
  fs.renameSync(join(folder, 'new'), join(folder, 'server.js'))
}

async function answer(port: number): Promise<string> {
  return (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text()
}

/** The number of the process that the line names. */
function pidIn(line: string): number {
  return Number(/\d+$/.exec(line)?.[0])
}

test('what has no effect is named once, by its option', t => {
  const all = 'its ports are closed while it restarts'
  t.is(restrictions({}, 'macOS'), `On macOS passfd runs the program as one plain process: ${all}`)
  t.is(restrictions({ workers: 1, name: 'a', watch: true, env: {} }, 'macOS').includes('effect'), false)
  t.is(
    restrictions({ workers: 4, maxRss: 1e9 }, 'Windows'),
    `On Windows passfd runs the program as one plain process rather than 4: ${all}, and --max-rss has no effect`
  )
  t.regex(
    restrictions({ workers: 'max', log: 'json', closeIdle: false, metrics: { port: 1 }, waitReady: true }, 'macOS'),
    /rather than one for each processor: .*, and --log, --metrics and --wait-ready have no effect$/
  )
})

test('darwin: it serves, restarts at a change and at HUP, waits for a change after a crash, and stops with its program', async t => {
  const folder = temporaryPath('folder')
  fs.mkdirSync(folder)
  const port = await freePort()
  writeServer(folder, 'one', port)
  const { line, child, exit, said } = serve('darwin', folder, '-w', '1', '--watch', '--name', 'shop', 'server.js')
  t.regex(await line(), /^one /)
  await until(() => / runs as process /.test(said()), 'the report')
  t.regex(
    said(),
    /^passfd: On macOS passfd runs the program as one plain process: its ports are closed while it restarts\.\n/
  )
  await until(() => /runs as process \d+\.\n/.test(said()), 'the report')
  const serving = async (version: string): Promise<void> => {
    t.is(await line(), 'goodbye')
    t.regex(await line(), new RegExp(`^${version} `))
    for (;;) {
      const got = await answer(port).catch(() => undefined)
      if (got === undefined) continue
      t.is(got, version)
      return
    }
  }
  writeServer(folder, 'two', port)
  await serving('two')
  t.regex(said(), /server\.js has changed\.\npassfd: shop was started again as process/)
  child.kill('SIGHUP')
  await serving('two')
  fs.writeFileSync(join(folder, 'server.js'), 'process.exit(7)')
  t.is(await line(), 'goodbye')
  await until(() => /: exit code 7\. Waiting for a change of a file\.\n/.test(said()), 'the report of the crash')
  writeServer(folder, 'three', port)
  const pid = pidIn(await line())
  t.true(lives(pid))
  child.kill('SIGTERM')
  t.is(await line(), 'goodbye')
  t.like(await exit, { code: 0, signal: null })
  t.false(lives(pid))
  t.regex(said(), /passfd: shop has stopped\.\n$/)
  t.is(said().split('plain process').length, 2)
})

test('a command with processes of its own: all end, by KILL if they do not listen', async t => {
  const folder = temporaryPath('folder')
  fs.mkdirSync(folder)
  fs.writeFileSync(
    join(folder, 'deaf.js'),
    "process.on('SIGTERM', () => console.log('no')); setInterval(() => {}, 1e6); console.log('deaf', process.pid)"
  )
  const limits = ['--stop-timeout', '100ms', '--kill-timeout', '100ms']
  const { line, child, exit } = serve(
    'darwin',
    folder,
    ...limits,
    '--',
    'sh',
    '-c',
    `"${process.execPath}" deaf.js & wait`
  )
  const pid = pidIn(await line())
  child.kill('SIGINT')
  t.is(await line(), 'no')
  t.like(await exit, { code: 0 })
  t.false(lives(pid))
})

test('another stop shortens the time; a program that ends is started again, after a while; takeover is refused', async t => {
  const folder = temporaryPath('folder')
  fs.mkdirSync(folder)
  fs.writeFileSync(join(folder, 'short.js'), "console.log('short', process.pid)")
  const short = serve('freebsd', folder, 'short.js')
  const pids = [pidIn(await short.line()), pidIn(await short.line()), pidIn(await short.line())]
  t.is(new Set(pids).size, 3)
  t.regex(short.said(), /On freebsd .*\n(.*\n)*.* has ended after .*: exit code 0\.\n/)
  short.child.kill('SIGTERM')
  t.like(await short.exit, { code: 0 })

  fs.writeFileSync(
    join(folder, 'deaf.js'),
    "process.on('SIGTERM', () => console.log('no')); setInterval(() => {}, 1e6); console.log('deaf')"
  )
  const deaf = serve('darwin', folder, '--kill-timeout', '1ms', 'deaf.js')
  t.is(await deaf.line(), 'deaf')
  deaf.child.kill('SIGTERM')
  t.is(await deaf.line(), 'no')
  deaf.child.kill('SIGTERM')
  t.like(await deaf.exit, { code: 0 })

  const refused = serve('darwin', folder, '--takeover', 'deaf.js')
  const { code, stderr } = await refused.exit
  t.is(code, 64)
  t.regex(stderr, /^passfd: On macOS no process can take the place of another one\. Leave out --takeover\.\n$/)
  const windows = serve('win32', folder, '--', 'npm', 'start')
  t.regex(
    (await windows.exit).stderr,
    /On Windows passfd serve runs Node programs only, and npm is a command\. Name the file/
  )
})

test('the program finds the slot of a single worker, and process.send() where it would be a worker of --wait-ready', async t => {
  const folder = temporaryPath('folder')
  fs.mkdirSync(folder)
  fs.writeFileSync(
    join(folder, 'worker.js'),
    `const { PASSFD_SLOT, NODE_APP_INSTANCE } = process.env
    setInterval(() => {}, 1e6)
    if (process.send === undefined) console.log(PASSFD_SLOT, NODE_APP_INSTANCE, 'no send')
    else process.send('ready', error => console.log(PASSFD_SLOT, NODE_APP_INSTANCE, error))`
  )
  for (const [options, expected] of [
    [[], '0 0 no send'],
    [['--wait-ready'], '0 0 null']
  ] as const) {
    const { line, child, exit } = serve('darwin', folder, ...options, 'worker.js')
    t.is(await line(), expected)
    child.kill('SIGTERM')
    t.like(await exit, { code: 0 })
  }
})

test('other commands say in one sentence where they work', async t => {
  const fake = `data:text/javascript,Object.defineProperty(process,'platform',{value:'darwin'})`
  for (const args of [
    ['status'],
    ['reload', 'shop'],
    ['send', '/tmp/none', '--', 'x'],
    ['inspect'],
    ['takeover', 'status', '/tmp/x']
  ]) {
    const { exit } = start(process.execPath, ['--import', fake, command, ...args])
    const { code, stderr } = await exit
    t.not(code, 0, args.join(' '))
    t.regex(stderr, /^passfd: [^\n]*\n$/, args.join(' '))
    t.notRegex(stderr, /fault of passfd/, args.join(' '))
  }
})
