/** `passfd send`, to a server in this process; and to and from other processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, readSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { type ChannelServer, Descriptor, listen, type Message } from '../../../src/index.ts'
import { captured } from '../../helpers/cli.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { type Ended, listens, shell } from '../../helpers/shell.ts'
import { openDescriptors, test, testInCi, until } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))

/** Runs `passfd send` to a server, whose messages `handle` gets. */
async function sent(
  args: readonly string[],
  handle: (message: Message<any>) => unknown,
  streams = captured()
): Promise<Ended> {
  const path = socketPath()
  const server = await listen(path)
  server.serve(handle)
  const ended = await shell(['send', path, ...args], streams)
  await server.close()
  return ended
}

function contentsOf(descriptor: Descriptor): string {
  const bytes = Buffer.alloc(1000)
  return bytes.toString('utf8', 0, readSync(descriptor.borrow(), bytes, 0, bytes.length, 0))
}

test('a value, an open file and a listener: an object with their names', async t => {
  const [path, log] = [temporaryPath('file'), temporaryPath('log')]
  writeFileSync(path, 'hello')
  const args = [
    '--value',
    '{"job": 7}',
    '--file',
    `in=${path}`,
    '--file',
    `log=${log}:a`,
    '--listen',
    'http=127.0.0.1:0'
  ]
  const ended = await sent([...args, '--json'], ({ value, descriptors, isRequest }) => {
    t.false(isRequest)
    t.is(descriptors.length, 3)
    t.deepEqual(Object.keys(value), ['job', 'in', 'log', 'http'])
    t.is(value.job, 7)
    t.like(value.in, { kind: 'file', access: 'read' })
    t.is(contentsOf(value.in), 'hello')
    t.like(value.log, { kind: 'file', access: 'write' })
    t.true(value.log.flags.append)
    t.is(value.http.kind, 'tcp-listener')
  })
  t.like(ended, { code: 0, err: '' })
  const { listeners, ...facts } = JSON.parse(ended.out)
  t.deepEqual(facts, { pid: process.pid, descriptors: ['in', 'log', 'http'] })
  t.regex(listeners.http, /^127\.0\.0\.1:[1-9]\d*$/)
})

test('a descriptor takes the place that the value names; a value may be anything else', async t => {
  const path = temporaryPath('file')
  writeFileSync(path, 'hello')
  const value = '{"files": [{"$descriptor": "one"}]}'
  const ended = await sent(['--value', value, '--file', `one=${path}`], ({ value: { files, ...rest } }) => {
    t.deepEqual(rest, {})
    t.is(contentsOf(files[0]), 'hello')
  })
  t.deepEqual(ended, { code: 0, out: '', err: '' })
  for (const [json, expected] of [
    ['"text"', 'text'],
    ['[1]', [1]],
    ['null', null]
  ] as const)
    t.is((await sent(['--value', json], message => void t.deepEqual(message.value, expected))).code, 0)
  t.is((await sent([], message => void t.deepEqual(message.value, {}))).code, 0)
  const streams = captured({}, { stdin: '{"from": "stdin"}' })
  await sent(['--value', '-'], message => void t.deepEqual(message.value, { from: 'stdin' }), streams)
})

test('--request prints the answer, with its descriptors described; they are closed', async t => {
  const path = temporaryPath('answer')
  writeFileSync(path, 'hello')
  const ended = await sent(['--value', '"?"', '--request'], async ({ value }) => {
    t.is(value, '?')
    return { text: value, file: await Descriptor.open(path), big: 5n }
  })
  t.like(ended, { code: 0, err: '' })
  const { file, ...rest } = JSON.parse(ended.out)
  t.deepEqual(rest, { text: '?', big: { $bigint: '5' } })
  t.like(file.$descriptor, { name: 'file', kind: 'file', path, size: 5, access: 'read' })

  const failed = await sent(['--request'], () => {
    throw new Error('not today')
  })
  t.is(failed.code, 1)
  t.regex(failed.err, /^passfd: .*not today.*\n$/)
})

test('a path to listen on is there for the receiver, and goes if nothing was sent', async t => {
  const path = socketPath()
  let taken: Descriptor | undefined
  const ended = await sent(['--listen', `unix=${path}`], ({ value }) => {
    taken = value.unix.claim()
  })
  t.deepEqual(ended, { code: 0, out: '', err: `passfd: unix listens on ${path}\n` })
  t.true(existsSync(path))
  const server = await taken!.toServer()
  server.close()
  await once(server, 'close')

  const other = socketPath()
  const failed = await sent(['--value', '[]', '--listen', `unix=${other}`], () => t.fail())
  t.is(failed.code, 64)
  t.regex(failed.err, /no place for the descriptor "unix"/)
  t.false(existsSync(other))
})

test('what can not be sent is refused before anything is sent, and nothing is created for nobody', async t => {
  const path = temporaryPath('new')
  const nobody = await shell(['send', socketPath(), '--file', `x=${path}:w`])
  t.is(nobody.code, 69)
  t.regex(nobody.err, /^passfd: Nobody listens at .*\. Start the program that receives, or add --wait\.\n$/)
  const inVain = await shell(['send', socketPath(), '--file', `x=${path}:w`, '--wait', '--timeout', '0.01'])
  t.is(inVain.code, 69)
  t.regex(inVain.err, /^passfd: Nobody listens at .*\. Start the program that receives\.\n$/)
  t.false(existsSync(path))
  const wrong = async (code: number, expected: RegExp, ...args: string[]): Promise<void> => {
    const ended = await sent(args, () => t.fail())
    t.is(ended.code, code)
    t.regex(ended.err, expected)
    t.is(ended.out, '')
  }
  await wrong(65, /not JSON/, '--value', '{job}')
  await wrong(64, /It is name=value/, '--file', 'x')
  await wrong(64, /It is name=value/, '--file', '__proto__=x')
  await wrong(64, /A descriptor is a number/, '--fd', 'x=one')
  await wrong(64, /It is a port, HOST:PORT/, '--listen', 'x=host')
  await wrong(64, /Two descriptors have the name "x"/, '--file', 'x=/dev/null', '--fd', 'x=0')
  await wrong(64, /number of seconds/, '--timeout', 'soon')
  await wrong(64, /a property "x" already/, '--value', '{"x":1}', '--file', 'x=/dev/null')
  const many = Array.from({ length: 254 }, (_, index) => ['--file', `f${index}=/dev/null`]).flat()
  await wrong(65, /carries 254 descriptors/, ...many)
  await wrong(66, /no such file/, '--file', 'x=/no/such/file')
  await wrong(66, /No descriptor 999 was inherited/, '--fd', 'x=999')
})

test('--wait: a program that listens later, with the time that it takes', async t => {
  const path = socketPath()
  const streams = captured({}, { terminal: true })
  const ending = shell(['send', path, '--wait', '--value', '7'], streams)
  await until(() => streams.err.includes(`waiting for ${path} … 1 s`), 'passfd send to wait')
  const server = await listen<number>(path)
  const [message] = await once(server, 'channel').then(([channel]) => once(channel, 'message'))
  t.is(message.value, 7)
  t.is((await ending).code, 0)
  await server.close()
})

test("Node's own descriptors are not taken for inherited ones", async t => {
  const { readable, writable } = Descriptor.pipe()
  const numbers = [readable.borrow(), writable.borrow()]
  for (const fd of numbers) {
    const ended = await sent(['--fd', `x=${fd}`], () => t.fail())
    t.is(ended.code, 66)
    t.regex(ended.err, /passfd's own\. Redirect it in the shell, as in \d+<file\.\n$/)
  }
  for (const each of [readable, writable]) each.close()
})

test('what passfd opens to send is not taken for an inherited descriptor', async t => {
  const path = socketPath()
  const server = await listen(path)
  server.serve(() => t.fail())
  // The connection gets one of these
  for (let count = 0; count < 4; count++) {
    const open = openDescriptors()
    const free = Array.from({ length: 256 }, (_, fd) => fd).filter(fd => !open.has(fd))
    const { code, err } = await shell(['send', path, '--fd', `x=${free[count]}`])
    t.is(code, 66, err)
  }
  await server.close()
})

test('a program that ends, hangs, or refuses', async t => {
  const ended = await sent(['--file', 'x=/dev/null', '--request'], ({ channel }) => channel.destroy())
  t.is(ended.code, 69)
  const path = socketPath()
  const silent = createServer(socket => socket.resume().on('error', () => {})).listen(path)
  await once(silent, 'listening')
  const hung = await shell(['send', path, '--timeout', '0.05'])
  t.is(hung.code, 69)
  silent.close()
  await once(silent, 'close')
  const mute = await listen(path)
  mute.serve(({ signal }) => once(signal, 'abort'))
  const unanswered = await shell(['send', path, '--value', '1', '--request', '--timeout', '0.2'])
  t.is(unanswered.code, 69)
  await mute.close()
  const server: ChannelServer = await listen(path, { authorize: () => false })
  const refused = await shell(['send', path])
  t.is(refused.code, 77)
  await server.close()
})

testInCi('from a shell: a redirected file, and what is stdin there', async t => {
  const path = temporaryPath('file')
  writeFileSync(path, 'hello')
  const socket = socketPath()
  const server = await listen<{ redirected: Descriptor; in: Descriptor }>(socket)
  const messages: string[] = []
  server.serve(async ({ value }) => {
    messages.push(contentsOf(value.redirected), await text(value.in.toReadable()))
  })
  const script = `echo piped | "$0" send "$1" --fd redirected=3 --fd in=0 3<"$2"`
  const child = spawn('/bin/sh', ['-c', script, command, socket, path], { stdio: ['ignore', 'inherit', 'inherit'] })
  t.deepEqual(await once(child, 'close'), [0, null])
  await server.close()
  t.deepEqual(messages, ['hello', 'piped\n'])
  t.is(readFileSync(path, 'utf8'), 'hello')
})

testInCi('two processes: what one sends, the command of the other reads', async t => {
  const path = temporaryPath('file')
  writeFileSync(path, 'a file, ')
  const socket = socketPath()
  const receiver = start(command, ['receive', socket, '--exec', 'sh', '-c', 'cat <&3; cat <&4; exit 3'])
  await listens(receiver)
  const sender = start(command, ['send', socket, '--file', `file=${path}`, '--fd', 'in=0'])
  sender.child.stdin!.end('a pipe\n')
  t.is(await receiver.line(), 'a file, a pipe')
  t.deepEqual(await sender.exit, { code: 0, signal: null, stderr: '' })
  t.like(await receiver.exit, { code: 3 })
  t.false(existsSync(socket))
})
