/** `passfd receive`, in this process, from senders in this process; and as a process of its own. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { listenNames } from '../../../src/cli/shell/run-with.ts'
import { fileNames } from '../../../src/cli/shell/save.ts'
import { type Channel, Connection, connect, Descriptor } from '../../../src/index.ts'
import { isInCi } from '../../helpers/full.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { listens, receiving, shell } from '../../helpers/shell.ts'
import { openDescriptors, test, testInCi, testInCiIf, until } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const NOBODY = 65534
const notRoot = process.getuid!() === 0 ? undefined : 'only root can be another user'

function newFolder(): string {
  const path = temporaryPath('folder')
  mkdirSync(path)
  return path
}

function fileWith(contents: string): Descriptor {
  const path = temporaryPath('file')
  writeFileSync(path, contents)
  return Descriptor.openSync(path)
}

/** A pipe's reading end, with all that will ever be in it. */
function pipeWith(contents: string): Descriptor {
  const { readable, writable } = Descriptor.pipe()
  writeSync(writable.borrow(), contents)
  writable.close()
  return readable
}

async function send(path: string, ...values: unknown[]): Promise<void> {
  const channel = await connect(path)
  for (const value of values) await channel.send(value)
  await channel.close()
}

async function ask(path: string, value: unknown): Promise<unknown> {
  await using channel: Channel = await connect(path)
  return await channel.request(value)
}

test('it prints one message with its descriptors, closes them, and removes the socket', async t => {
  const path = socketPath()
  const { ended } = await receiving(path)
  t.true(existsSync(path))
  await send(path, {
    job: 7,
    file: fileWith('hello'),
    list: [pipeWith('')],
    listener: await Descriptor.bind({ port: 0 })
  })
  const { code, out, err } = await ended
  t.deepEqual({ code, err }, { code: 0, err: `passfd: waiting at ${path}\n` })
  const { job, file, list, listener } = JSON.parse(out)
  t.is(job, 7)
  t.like(file.$descriptor, { name: 'file', kind: 'file', access: 'read', size: 5, position: 0 })
  t.like(list[0].$descriptor, { name: 'list.0', kind: 'pipe' })
  t.like(listener.$descriptor, { name: 'listener', kind: 'tcp-listener' })
  t.regex(listener.$descriptor.local, /:\d+$/)
  t.false('fd' in file.$descriptor)
  t.false(existsSync(path))
})

test('--json says who sent it; a request is answered; --count', async t => {
  const path = socketPath()
  const { ended } = await receiving(path, ['--json', '--count', '2'])
  t.deepEqual(await ask(path, { file: fileWith('') }), { received: ['file'] })
  await send(path, 'second')
  const { code, out } = await ended
  t.is(code, 0)
  const [first, second] = out
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
  t.like(first.from, { pid: process.pid, uid: process.getuid!() })
  t.is(second.value, 'second')
})

test('--save copies files from their beginning, and pipes to their end; it reports and closes all else', async t => {
  const [path, folder] = [socketPath(), newFolder()]
  const { ended } = await receiving(path, ['--save', folder])
  const file = fileWith('hello')
  const memory = Descriptor.memfd()
  writeSync(memory.borrow(), 'memory') // its offset is at the end
  // Whoever copies the pipe must not hold its writing end, too
  const { readable, writable } = Descriptor.pipe()
  writeSync(writable.borrow(), 'through')
  const answer = await ask(path, {
    file,
    memory,
    nested: { readable },
    writable,
    folder: Descriptor.openSync('/'),
    device: Descriptor.openSync('/dev/zero'),
    listener: await Descriptor.bind({ port: 0 })
  })
  t.deepEqual(answer, {
    file: join(folder, 'file'),
    memory: join(folder, 'memory'),
    'nested.readable': join(folder, 'nested.readable'),
    writable: null,
    folder: null,
    device: null,
    listener: null
  })
  const { code, out, err } = await ended
  t.is(code, 0)
  t.like(JSON.parse(out).file.$descriptor, { kind: 'file', size: 5, saved: join(folder, 'file'), bytes: 5 })
  t.like(JSON.parse(out).device.$descriptor, { kind: 'device', closed: 'a device has no contents to save' })
  t.regex(err, /passfd: writable was closed: it is not open for reading\.\n/)
  t.deepEqual(readdirSync(folder).sort(), ['file', 'memory', 'nested.readable'])
  t.is(readFileSync(join(folder, 'file'), 'utf8'), 'hello')
  t.is(readFileSync(join(folder, 'memory'), 'utf8'), 'memory')
  t.is(readFileSync(join(folder, 'nested.readable'), 'utf8'), 'through')
})

test('--save never leaves its folder, and replaces nothing without --force', async t => {
  const folder = newFolder()
  const outside = temporaryPath('outside')
  writeFileSync(outside, 'outside')
  symlinkSync(outside, join(folder, 'link'))
  writeFileSync(join(folder, 'old'), 'old')
  const save = async (value: () => object, ...more: string[]) => {
    const path = socketPath()
    const { ended } = await receiving(path, ['--save', folder, ...more])
    await send(path, value())
    return ended
  }
  for (const name of ['link', 'old']) {
    const { code, err } = await save(() => ({ first: fileWith('new'), [name]: fileWith('new') }))
    t.is(code, 73)
    t.regex(
      err,
      new RegExp(`passfd: the message of process ${process.pid}: .*${name} exists\\. Add --force to replace it\\.\n`)
    )
  }
  t.deepEqual(readdirSync(folder).sort(), ['link', 'old'])
  const hostile = () => ({
    '../escaped': fileWith('1'),
    '..': fileWith('2'),
    '/etc/x': fileWith('3'),
    '.hidden': fileWith('4')
  })
  t.is((await save(hostile)).code, 0)
  t.deepEqual(
    readdirSync(folder).sort(),
    ['.._escaped', '_.', '_etc_x', '_hidden', 'link', 'old'].map(name => name.replace(/^\./, '_')).sort()
  )
  t.is((await save(() => ({ link: fileWith('new'), old: fileWith('new') }), '--force')).code, 0)
  for (const name of ['link', 'old']) t.is(readFileSync(join(folder, name), 'utf8'), 'new')
  t.is(readFileSync(outside, 'utf8'), 'outside')
  t.is((await shell(['receive', socketPath(), '--save', '/no/such/folder'])).code, 66)
})

test('names of files and of LISTEN_FDNAMES', t => {
  t.deepEqual(fileNames(['a', 'a', '', '.', '..', 'a/b', 'x\n', '.profile']), [
    'a',
    'a-2',
    '_',
    '_-2',
    '_.',
    'a_b',
    'x_',
    '_profile'
  ])
  t.true(Buffer.byteLength(fileNames(['ä'.repeat(300)])[0]!) <= 255)
  t.deepEqual(listenNames(['log', 'a:b', 'a:b', '', 'ü\n', 'x'.repeat(300)]), [
    'log',
    'a_b',
    'a_b-2',
    'unknown',
    '__',
    'x'.repeat(251)
  ])
})

test('--exec: the command has the descriptors from 3 on, their names and the value; its exit code is ours', async t => {
  const [path, out] = [socketPath(), temporaryPath('out')]
  const script = `{ cat <&3; cat <&4; ls /proc/$$/fd; echo "$LISTEN_FDS $LISTEN_FDNAMES $LISTEN_PID $$"; printf %s "$PASSFD_VALUE"; } >"$0"; exit 7`
  const env = { ...process.env, LISTEN_FDS: '9', LISTEN_PID: '1', PASSFD_VALUE: 'old' }
  const { ended } = await receiving(path, ['--exec', 'sh', '-c', script, out], env)
  const [one, other] = Descriptor.socketpair()
  const value = {
    file: fileWith('hello '),
    'a:b': pipeWith('piped\n'),
    job: 7,
    live: new Connection(one, Buffer.from('GET'))
  }
  t.deepEqual(await ask(path, value), { exitCode: 7 })
  t.like(await ended, { code: 7, out: '' })
  const [first, ...rest] = readFileSync(out, 'utf8').split('\n')
  t.is(first, 'hello piped')
  const open = rest.slice(0, -2).map(Number)
  t.deepEqual(
    open.filter(fd => fd > 2 && fd < 10),
    [3, 4, 5]
  )
  const [count, names, forPid, pid] = rest.at(-2)!.split(' ')
  t.deepEqual([count, names], ['3', 'file:a_b:live'])
  t.is(forPid, pid)
  t.deepEqual(JSON.parse(rest.at(-1)!), {
    file: { $descriptor: { name: 'file', fd: 3, kind: 'file' } },
    'a:b': { $descriptor: { name: 'a:b', fd: 4, kind: 'pipe' } },
    job: 7,
    live: { $descriptor: { name: 'live', fd: 5, kind: 'unix-stream', head: 'R0VU' } }
  })
  other.close()
})

test('--exec: no descriptors, options of the command, a command that is missing, a value that is too large', async t => {
  const [path, out] = [socketPath(), temporaryPath('out')]
  for (const [args, code] of [
    [['--exec', '--', 'sh', '-c', 'echo "$LISTEN_FDS:$LISTEN_FDNAMES" >"$0"; kill -TERM $$', out], 143],
    [['--exec', 'true', '--json', '--count'], 0],
    [['--exec', '/no/such/command'], 127]
  ] as const) {
    const { ended } = await receiving(path, args)
    await send(path, 'text')
    t.like(await ended, { code, out: '' })
  }
  t.is(readFileSync(out, 'utf8'), '0:\n')
  const { ended } = await receiving(path, ['--exec', 'true'])
  await send(path, 'x'.repeat(200_000))
  const { code, err } = await ended
  t.is(code, 65)
  t.regex(
    err,
    /The value has 200002 bytes as JSON, and an environment variable holds 131058\. Send large data in a file or pipe\./
  )
})

test('several messages: one command after the other; the last that has failed decides', async t => {
  const [path, out] = [socketPath(), temporaryPath('out')]
  const { ended } = await receiving(path, [
    '--count',
    '4',
    '--exec',
    'sh',
    '-c',
    'echo $PASSFD_VALUE >>"$0"; exit $PASSFD_VALUE',
    out
  ])
  await Promise.all([send(path, 0, 3), send(path, 0, 0)])
  t.is((await ended).code, 3)
  t.deepEqual(readFileSync(out, 'utf8').trim().split('\n').sort(), ['0', '0', '0', '3'])
})

test('a sender that is one too many is refused, and keeps its descriptors', async t => {
  const path = socketPath()
  const { ended } = await receiving(path)
  const channel = await connect(path)
  const late = await shell(['send', path, '--file', 'x=/dev/null', '--timeout', '0.2'])
  t.is(late.code, 75)
  await channel.send(1)
  await channel.close()
  t.like(await ended, { code: 0, out: '1\n' })
})

test('more messages than wanted on one channel: each comes back to its sender, or passfd says that it was not handled', async t => {
  const path = socketPath()
  const { ended } = await receiving(path)
  const channel = await connect(path)
  let returned = 0
  channel.on('returned', () => {
    returned++
  })
  const MANY = 20
  for (let i = 0; i < MANY; i++) void channel.send([i, pipeWith('')]).catch(() => {})
  await channel.closed
  const { code, out, err } = await ended
  t.is(code, 0)
  t.is(JSON.parse(out)[0], 0)
  const unhandled =
    err.match(/a further message of process \d+ was not handled; its descriptors are closed\./g)?.length ?? 0
  t.is(returned + unhandled, MANY - 1)
})

test('what is wrong with the command line; a taken socket', async t => {
  const path = socketPath()
  for (const args of [
    ['--print', '--save', '/tmp'],
    ['--count', '0'],
    ['--count', '2', '--forever'],
    ['--mode', '9'],
    ['--force'],
    ['--exec']
  ]) {
    const { code, out } = await shell(['receive', path, ...args])
    t.deepEqual({ code, out }, { code: 64, out: '' }, args.join(' '))
  }
  const nowhere = await shell(['receive', path, '--save', `${path}/none`])
  t.deepEqual(nowhere, { code: 66, out: '', err: `passfd: There is no folder ${path}/none. Make it with mkdir.\n` })
  const { ended } = await receiving(path)
  t.is((await shell(['receive', path])).code, 73)
  // It waits until the receiver has noticed the end of that question
  t.is((await shell(['send', path, '--value', '1'])).code, 0)
  await ended
})

testInCiIf(notRoot, 'the mode of the file decides who may send', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-public-'))
  chmodSync(folder, 0o755)
  const path = join(folder, 'socket')
  // A process of another user, which can not read this repository's modules as it
  const asNobody = async (): Promise<number> => {
    const child = spawn(process.execPath, [command, 'send', path, '--value', '1'], {
      uid: NOBODY,
      gid: NOBODY,
      stdio: 'ignore'
    })
    return (await once(child, 'close'))[0]
  }
  const { ended } = await receiving(path, ['--mode', '0666', '--json'])
  t.is(await asNobody(), 0)
  t.is(JSON.parse((await ended).out).from.uid, NOBODY)
  const own = await receiving(path)
  t.is(await asNobody(), 77)
  await send(path, 1)
  await own.ended
  rmSync(folder, { recursive: true })
})

testInCi('a process that receives for ever: SIGTERM ends it, and its command; nothing is left', async t => {
  const path = socketPath()
  for (const [args, value] of [
    [['--forever'], undefined],
    [['--forever', '--exec', 'sleep', '100'], 1],
    [['--forever', '--save', newFolder()], 'pipe']
  ] as const) {
    const running = start(command, ['receive', path, ...args])
    await listens(running)
    let held: Descriptor | undefined
    if (value !== undefined) {
      const pipe = value === 'pipe' ? Descriptor.pipe() : undefined
      held = pipe?.writable
      const channel = await connect(path)
      void channel.send(pipe?.readable ?? value).catch(() => {})
      const pid = running.child.pid!
      if (pipe === undefined) await until(() => childOf(pid) !== '', 'the command to start')
      else await until(() => readdirSync(args[2]!).length > 0, 'the file to be made')
      running.child.kill()
      await channel.closed
    } else running.child.kill('SIGINT')
    t.is((await running.exit).code, value === undefined ? 130 : 143)
    t.false(existsSync(path))
    if (value === 'pipe') t.deepEqual(readdirSync(args[2]!), [])
    held?.close()
  }
})

function childOf(pid: number): string {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  // The shell becomes the command
  return children !== '' && readFileSync(`/proc/${children}/cmdline`, 'utf8').startsWith('sleep') ? children : ''
}

test('between two processes: nothing is left open in either', async t => {
  const path = socketPath()
  const COUNT = isInCi ? 20 : 8
  const before = openDescriptors()
  const receiver = start(command, [
    'receive',
    path,
    '--count',
    String(COUNT),
    '--exec',
    'sh',
    '-c',
    'ls /proc/$PPID/fd | wc -l; cat <&3'
  ])
  await listens(receiver)
  const counts: number[] = []
  for (let i = 0; i < COUNT; i++) {
    await send(path, [pipeWith(`number ${i}\n`)])
    counts.push(Number(await receiver.line()))
    t.is(await receiver.line(), `number ${i}`)
  }
  t.like(await receiver.exit, { code: 0 })
  // Earlier channels may still be there when the next message has come, but not all of them
  t.true(Math.min(...counts.slice(-3)) - counts[0]! <= 2, counts.join())
  t.is(openDescriptors().size, before.size)
})
