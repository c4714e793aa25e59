import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Descriptor } from '../../../src/index.ts'
import { native } from '../../../src/os/native.ts'
import {
  type CommandLaunch,
  canSignalOnDeath,
  inheritable,
  launchCommand,
  launchNode,
  type NodeLaunch
} from '../../../src/prefork/launch/launch.ts'
import { isFull } from '../../helpers/full.ts'
import { inC } from '../../helpers/in-c.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { missing } from '../../helpers/programs.ts'
import { test, testIf } from '../../helpers/test.ts'

const python = '/usr/bin/python3'
const reporter = fileURLToPath(new URL('../../fixtures/prefork-report.py', import.meta.url))
/** For processes of their own. */
const built = JSON.stringify(new URL('../../../build/dist/prefork/launch/launch.js', import.meta.url))
const withoutCompiler = missing('/usr/bin/cc', 'build-essential')
const O_NONBLOCK = 0o4000

interface Report {
  fds: Record<string, [target: string, flags: number]>
  env: Record<string, string>
  argv: string[]
  cwd: string
  pid: number
  ppid: number
  session: number
  uid: number
  gid: number
  groups: number[]
}

/** What a child tells over the pipe whose writing end `launch` is given. */
async function reportOf(launch: (out: number) => ChildProcess): Promise<Report> {
  const { readable, writable } = Descriptor.pipe()
  const stream = readable.toReadable()
  const child = launch(writable.borrow())
  writable.close()
  let text = ''
  stream.on('data', chunk => {
    text += chunk
  })
  const [[code]] = await Promise.all([once(child, 'exit'), once(stream, 'close')])
  if (code !== 0) throw new Error(`it ended with ${code}`)
  const report = JSON.parse(text) as Report
  if (report.pid !== child.pid) throw new Error(`it is ${report.pid}, not ${child.pid}`)
  return report
}

/** As Node would be started, but Python is, which opens nothing by itself. */
function nodeReport(numbers: number[], options: Partial<NodeLaunch> = {}): Promise<Report> {
  const { execPath } = process
  return reportOf(out => {
    process.execPath = python
    try {
      const args = [...(options.args ?? []), `${3 + numbers.length}`]
      return launchNode({ execArgv: [reporter], entry: '/entry.js', ...options, args }, [...numbers, out])
    } finally {
      process.execPath = execPath
    }
  })
}

type Listeners = Parameters<typeof launchCommand>[1]

function commandReport(listeners: Listeners, options: Partial<CommandLaunch> = {}): Promise<Report> {
  return reportOf(out =>
    launchCommand(
      { command: [python, reporter, `${3 + listeners.length}`], deathSignal: false, ...options },
      listeners,
      {
        PASSFD_CHANNEL: out
      }
    )
  )
}

function identity(fd: number): string {
  return fs.readlinkSync(`/proc/self/fd/${fd}`)
}

/** Two sockets, one that waits and one that does not, and a file: what they are, and their flags. */
function three(): { numbers: number[]; facts: [string, number][]; close(): void } {
  const [first, second] = Descriptor.socketpair()
  const file = Descriptor.openSync('/proc/self/status')
  const all = [file, second, first]
  native.nonblocking(first.borrow(), true)
  native.nonblocking(second.borrow(), false)
  const numbers = all.map(each => each.borrow())
  return {
    numbers,
    facts: numbers.map(fd => [identity(fd), native.statusFlags(fd)]),
    close: () => {
      for (const each of all) each.close()
    }
  }
}

test('a Node worker has exactly the numbers it was given, in their order, and 0 to 2', async t => {
  const { numbers, facts, close } = three()
  const { fds } = await nodeReport([...numbers, numbers[0]!])
  t.deepEqual(Object.keys(fds).toSorted(), ['0', '1', '2', '3', '4', '5', '6', '7'])
  t.deepEqual([fds[3], fds[4], fds[5], fds[6]], [...facts, facts[0]])
  t.is(facts[1]![1] & O_NONBLOCK, 0)
  t.is(facts[2]![1] & O_NONBLOCK, O_NONBLOCK)
  t.is(fds[0]![0], '/dev/null')
  t.deepEqual([fds[1]![0], fds[2]![0]], [identity(1), identity(2)])
  t.deepEqual(
    numbers.map(fd => [identity(fd), native.statusFlags(fd)]),
    facts,
    'and ours are as they were'
  )
  close()
})

test('a command has its listeners from 3 on, then the channel, and nothing else', async t => {
  const { numbers, facts, close } = three()
  for (const deathSignal of [false, true]) {
    const listeners = numbers.map((fd, index) => ({ name: `name ${index}`, fd }))
    const { fds, env, pid } = await commandReport(listeners, { deathSignal })
    t.deepEqual(Object.keys(fds).toSorted(), ['0', '1', '2', '3', '4', '5', '6'])
    t.deepEqual([fds[3], fds[4], fds[5]], facts)
    t.like(env, {
      LISTEN_PID: `${pid}`,
      LISTEN_FDS: '3',
      LISTEN_FDNAMES: 'name 0:name 1:name 2',
      PASSFD_CHANNEL: '6'
    })
    t.false('WATCHDOG_PID' in env)
  }
  close()
  const { fds, env } = await commandReport([])
  t.deepEqual(Object.keys(fds).toSorted(), ['0', '1', '2', '3'])
  t.like(env, { LISTEN_FDS: '0', LISTEN_FDNAMES: '', PASSFD_CHANNEL: '3' })
})

test('what this process was given when it was started goes to no worker', async t => {
  // Numbers 3 to 7, and 40 after a gap, are open in it from the start and not close-on-exec
  const gap = 'import os, sys; os.dup2(0, 40); os.execv(sys.argv[1], sys.argv[1:])'
  const source = `
    import { launchCommand, launchNode } from ${built}
    import { once } from 'node:events'
    process.execPath = '${python}'
    await once(launchNode({ execArgv: ['${reporter}'], entry: '', args: ['3'] }, [8]), 'exit')
    await once(launchCommand({ command: ['${python}', '${reporter}', '3'], deathSignal: true }, [], { PASSFD_CHANNEL: 9 }), 'exit')`
  const env = {
    ...process.env,
    LISTEN_FDS: '5',
    LISTEN_PID: '77',
    LISTEN_PIDFDID: '1',
    LISTEN_FDNAMES: 'a',
    NOTIFY_SOCKET: '@x',
    FDSTORE: '3',
    WATCHDOG_USEC: '1',
    WATCHDOG_PID: '77',
    PASSFD_CHANNEL: '5',
    PASSFD_SLOT: '1',
    KEPT: 'yes'
  }
  const { child, exit } = start(python, ['-c', gap, process.execPath, '--input-type=module', '-e', source], {
    env,
    stdio: ['ignore', 'pipe', 'pipe', ...Array<number>(5).fill(fs.constants.O_RDONLY), 'pipe', 'pipe']
  })
  const reports = await Promise.all([8, 9].map(index => textOf(child.stdio[index] as NodeJS.ReadableStream)))
  t.like(await exit, { code: 0, stderr: '' })
  const [node, command] = reports.map(text => JSON.parse(text) as Report)
  for (const report of [node!, command!]) {
    t.deepEqual(Object.keys(report.fds).toSorted(), ['0', '1', '2', '3'])
    t.is(report.env.KEPT, 'yes')
    for (const name of ['LISTEN_PIDFDID', 'NOTIFY_SOCKET', 'FDSTORE', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'PASSFD_SLOT'])
      t.false(name in report.env, name)
  }
  for (const name of ['LISTEN_FDS', 'LISTEN_PID', 'PASSFD_CHANNEL']) t.false(name in node!.env, name)
  t.like(command!.env, { LISTEN_FDS: '0', LISTEN_PID: `${command!.pid}`, PASSFD_CHANNEL: '3' })
})

test('it goes to no worker either if the first start can not read what is open', async t => {
  const gap = 'import os, sys; os.dup2(0, 40); os.execv(sys.argv[1], sys.argv[1:])'
  const source = `
    import { launchNode } from ${built}
    import { execFileSync } from 'node:child_process'
    import { closeSync, openSync } from 'node:fs'
    import { once } from 'node:events'
    process.execPath = '${python}'
    const launch = () => launchNode({ execArgv: ['${reporter}'], entry: '', args: ['3'] }, [8])
    execFileSync('prlimit', ['--pid', process.pid, '--nofile=64:'])
    const open = []
    try {
      for (;;) open.push(openSync('/dev/null'))
    } catch {}
    try {
      launch()
    } catch ({ code, syscall }) {
      console.log(code, syscall)
    }
    for (const fd of open) closeSync(fd)
    await once(launch(), 'exit')`
  const { child, exit, line } = start(python, ['-c', gap, process.execPath, '--input-type=module', '-e', source], {
    stdio: ['ignore', 'pipe', 'pipe', ...Array<number>(5).fill(fs.constants.O_RDONLY), 'pipe']
  })
  t.is(await line(), 'EMFILE scandir')
  const stdio: readonly unknown[] = child.stdio
  const report = JSON.parse(await textOf(stdio[8] as NodeJS.ReadableStream)) as Report
  t.deepEqual(Object.keys(report.fds).toSorted(), ['0', '1', '2', '3'])
  t.like(await exit, { code: 0, stderr: '' })
})

async function textOf(stream: NodeJS.ReadableStream): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}

test('inheritable() leaves out what was meant for one process, and keeps where the native part is', t => {
  t.deepEqual(
    inheritable({
      LISTEN_FDS: '1',
      LISTEN_ADDRESS: 'kept',
      PASSFD_SHIM: '/kept',
      PASSFD_ID: '1',
      WATCHDOG_PID: '1',
      A: ''
    }),
    { LISTEN_ADDRESS: 'kept', PASSFD_SHIM: '/kept', A: '' }
  )
})

test('a given environment is taken as it is; a watchdog comes with the pid that it means', async t => {
  const env = { NOTIFY_SOCKET: '@mine', WATCHDOG_USEC: '5000000', 'a.b': 'not for a shell', 'c-d': "'$1 \n", E: '=' }
  for (const deathSignal of [false, true]) {
    const { env: found, pid } = await commandReport([], { env, deathSignal })
    t.like(found, { ...env, WATCHDOG_PID: `${pid}` })
    t.false('HOME' in found)
  }
  const { env: found } = await nodeReport([], { env })
  t.like(found, env)
  t.false('HOME' in found)
})

test('where, as whom and in which session a worker runs', async t => {
  const cwd = dirname(temporaryPath())
  for (const run of [
    nodeReport([], { cwd, uid: 65534, gid: 65533 }),
    commandReport([], { cwd, uid: 65534, gid: 65533 })
  ]) {
    const report = await run
    t.like(report, { cwd: fs.realpathSync(cwd), uid: 65534, gid: 65533, groups: [], ppid: process.pid })
    t.is(report.session, report.pid)
  }
  t.is((await commandReport([], { cwd: pathToFileURL(cwd) })).cwd, fs.realpathSync(cwd))
})

test('arguments arrive as they are', async t => {
  const odd = ['a b', '$HOME', '', "'", '--', '*', '\n', '-x']
  const { argv } = await commandReport([], { command: [python, reporter, ...odd, '3'] })
  t.deepEqual(argv, [reporter, ...odd, '3'])
  const report = await nodeReport([], { args: odd })
  t.deepEqual(report.argv, [reporter, '--', '/entry.js', ...odd, '3'])
})

test('an entry is a path or a file URL, and Node itself is given the arguments after it', async t => {
  const path = join(fs.mkdtempSync(temporaryPath('entry')), 'entry.mjs')
  fs.writeFileSync(
    path,
    'import { writeSync } from "node:fs"\nwriteSync(3, JSON.stringify({ argv: process.argv, execArgv: process.execArgv }))'
  )
  for (const entry of [path, pathToFileURL(path)])
    t.deepEqual((await nodeReport([], { entry })).argv, [reporter, '--', path, '3'])
  const text = await new Promise<string>((resolve, reject) => {
    const { readable, writable } = Descriptor.pipe()
    const entry = pathToFileURL(path).href
    launchNode({ entry, args: ['--inspect', 'x'], execArgv: ['--no-warnings'] }, [writable.borrow()]).on(
      'error',
      reject
    )
    writable.close()
    textOf(readable.toReadable()).then(resolve, reject)
  })
  const { argv, execArgv } = JSON.parse(text)
  t.deepEqual(argv, [process.execPath, path, '--inspect', 'x'])
  t.deepEqual(execArgv, ['--no-warnings'])
})

const KEPT = ['--no-warnings', '--import', 'node:fs']
/** How Node may be given a source, after other options. */
const WITH_SOURCE: [...options: string[]][] = [
  ['-e'],
  ['-pe'],
  ['--eval'],
  ['--eval='],
  ['--input-type=module', '-e'],
  ['--input-type', 'module', '-e']
]

function withSource(options: readonly string[], source: string): string[] {
  const last = options.at(-1)!
  return last.endsWith('=') ? [...options.slice(0, -1), last + source] : [...options, source]
}

test("without execArgv it is this process' own, but not the source of node -e, nor the inspector's port", t => {
  const module = temporaryPath('launches')
  fs.writeFileSync(
    `${module}.mjs`,
    `import { launchNode } from ${built}
    const child = launchNode({ entry: '/dev/null', env: { ...process.env, NESTED: 'yes' } }, [])
    child.on('exit', code => console.log(JSON.stringify([code, ...child.spawnargs.slice(1)])))`
  )
  // A worker that has got the source ends with 9
  const source = `process.env.NESTED ? process.exit(9) : void import('${module}.mjs')`
  const run = (...args: string[]) => {
    const output = execFileSync(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] }).toString()
    return JSON.parse(output.trim().split('\n').at(-1)!)
  }
  // A full run tries each with a real Node, which keeps its options as they were given
  if (isFull)
    for (const options of WITH_SOURCE)
      t.deepEqual(run(...KEPT, ...withSource(options, source)), [0, ...KEPT, '--', '/dev/null'], options.join(' '))
  t.deepEqual(run(...KEPT, '--inspect=0', `--eval=${source}`), [
    0,
    ...KEPT,
    '--inspect=0',
    '--inspect-port=0',
    '--',
    '/dev/null'
  ])
})

test('however this process was given a source, a worker is not', async t => {
  const own = process as typeof process & { _eval?: string }
  const { execArgv, execPath, _eval } = own
  const source = 'work()'
  try {
    process.execPath = '/bin/true'
    own._eval = source
    for (const options of WITH_SOURCE) {
      process.execArgv = [...KEPT, ...withSource(options, source)]
      const child = launchNode({ entry: '/dev/null' }, [])
      t.deepEqual(child.spawnargs.slice(1), [...KEPT, '--', '/dev/null'], options.join(' '))
      await once(child, 'exit')
    }
  } finally {
    Object.assign(own, { execArgv, execPath })
    if (_eval === undefined) delete own._eval
    else own._eval = _eval
  }
})

/** The error that comes instead of the process. */
async function failure(options: Partial<CommandLaunch>): Promise<NodeJS.ErrnoException> {
  const child = launchCommand({ command: ['x'], deathSignal: true, ...options }, [], { PASSFD_CHANNEL: 2 })
  const [error] = await once(child, 'error')
  return error
}

test("a program that isn't there, or can't be executed, is an error as spawn has it", async t => {
  const plain = temporaryPath('plain')
  fs.writeFileSync(plain, '')
  for (const name of ['passfd-no-such-program', '/nowhere/at-all', './passfd-no-such-program', plain, '/etc']) {
    const [expected] = await once(spawn(name, ['arg']), 'error')
    const error = await failure({ command: [name, 'arg'] })
    t.is(error.message, expected.message)
    t.deepEqual({ ...error }, { ...expected })
  }
  t.is((await failure({ command: [plain] })).code, 'EACCES')
  t.is((await failure({ command: ['ls'], env: { PATH: '/nowhere' } })).code, 'ENOENT')
})

test('a program is looked for where execvp(3) looks', async t => {
  const folder = fs.mkdtempSync(temporaryPath('programs'))
  const program = join(folder, 'passfd-program')
  fs.writeFileSync(program, '#!/bin/sh\nprintf \'{"pid":%s,"argv":["%s"]}\' $$ "$*" >&3\n', { mode: 0o755 })
  fs.mkdirSync(join(folder, 'sub', 'passfd-program'), { recursive: true })
  const PATH = `${folder}/sub:${folder}:/usr/bin:/bin`
  for (const [command, options] of [
    ['passfd-program', { env: { PATH } }],
    ['passfd-program', { env: { PATH: ':/bin' }, cwd: folder }],
    ['./passfd-program', { cwd: folder }],
    ['../passfd-program', { cwd: join(folder, 'sub') }]
  ] as const)
    t.deepEqual((await commandReport([], { command: [command, '3'], ...options })).argv, ['3'], command)
  const dashed = join(folder, '-c')
  fs.renameSync(program, dashed)
  t.deepEqual((await commandReport([], { command: ['-c', '3'], env: { PATH } })).argv, ['3'])
})

test("a directory that isn't there is named, not the program", t => {
  const at = (cwd: string) => () =>
    launchCommand({ command: ['ls'], deathSignal: false, cwd }, [], { PASSFD_CHANNEL: 2 })
  t.like(t.throws(at('/nowhere')), { code: 'ENOENT', syscall: 'chdir', address: '/nowhere' })
  t.like(t.throws(at('/etc/passwd')), { code: 'ENOTDIR', syscall: 'chdir' })
  t.like(
    t.throws(() => launchNode({ entry: 'x', cwd: '/nowhere' }, [])),
    { code: 'ENOENT', syscall: 'chdir' }
  )
})

testIf(
  missing('/usr/bin/setpriv', 'util-linux'),
  'trap 36: a command gets SIGTERM when its supervisor is killed',
  async t => {
    t.true(await canSignalOnDeath())
    const source = `
    import { launchCommand } from ${built}
    launchCommand({ command: ['${python}', '-c', ${JSON.stringify(WAITS)}], deathSignal: true }, [], { PASSFD_CHANNEL: 1 })`
    const supervisor = start(process.execPath, ['--input-type=module', '-e', source])
    t.is(await supervisor.line(), 'waits')
    supervisor.child.kill('SIGKILL')
    t.is(await supervisor.line(), 'ends')
    await supervisor.exit
  }
)

/** Waits until it is told to end, and ends in a minute whatever happens. */
const WAITS = `
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.alarm(60)
print('waits', flush=True)
signal.sigwait([signal.SIGTERM])
print('ends', flush=True)`

test('trap 36: a command whose supervisor has ended before its death signal was set does not begin', async t => {
  // The shell's parent is not the one it was told
  const child = launchCommand({ command: ['sh', '-c', ':'], deathSignal: false }, [], { PASSFD_CHANNEL: 2 })
  const index = child.spawnargs.indexOf(`${process.pid}`)
  t.true(index > 0)
  const args = child.spawnargs.with(index, '1').slice(1)
  t.is(spawnSync(child.spawnfile, args, { stdio: 'ignore' }).status, 143)
  t.deepEqual(await once(child, 'exit'), [0, null])
})

test('without setpriv, or with one that knows no death signal, there is none', t => {
  const folder = fs.mkdtempSync(temporaryPath('programs'))
  fs.writeFileSync(join(folder, 'setpriv'), '#!/bin/sh\nexit 1\n', { mode: 0o755 })
  const source = `
    import { canSignalOnDeath } from ${built}
    console.log(await canSignalOnDeath())`
  const args = ['--input-type=module', '-e', source]
  const env = { ...process.env, PATH: `${folder}:${process.env.PATH}` }
  t.is(execFileSync(process.execPath, args, { env }).toString(), 'false\n')
})

testIf(withoutCompiler, 'a worker in C finds its listeners as sd_listen_fds(3) says, serves and ends', async t => {
  const worker = inC('prefork-worker')
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const copy = listener.dup()
  const [ours, theirs] = Descriptor.socketpair()
  const env = { WATCHDOG_USEC: '60000000' }
  const launch = () =>
    launchCommand({ command: [worker], env, deathSignal: true }, [{ name: 'http', fd: listener.borrow() }], {
      PASSFD_CHANNEL: theirs.borrow()
    })
  const first = launch()
  const server = await copy.toServer()
  const { port } = server.address() as { port: number }
  server.close() // our copy of it: the worker's goes on
  t.is(await (await fetch(`http://127.0.0.1:${port}/`)).text(), `${first.pid}\n`)
  first.kill()
  t.deepEqual(await once(first, 'exit'), [0, null])
  const second = launch()
  theirs.close()
  t.is(await (await fetch(`http://127.0.0.1:${port}/`)).text(), `${second.pid}\n`)
  ours.close() // as the supervisor's end would
  t.deepEqual(await once(second, 'exit'), [0, null])
  listener.close()
})
