/** `passfd inspect`, of this process and of others. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { printable, printableJson, shortened } from '../../../src/cli/printable.ts'
import { textOf } from '../../../src/cli/shell/inspect.ts'
import { Descriptor } from '../../../src/index.ts'
import { native } from '../../../src/os/native.ts'
import { captured } from '../../helpers/cli.ts'
import { socketPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { missing } from '../../helpers/programs.ts'
import { shell } from '../../helpers/shell.ts'
import { test, testInCiIf } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const notRoot = process.getuid!() === 0 ? undefined : 'only root can be another user'
const NOBODY = 65534

async function inspected(target: string | number): Promise<any> {
  const { code, out, err } = await shell(['inspect', '--json', String(target)])
  if (code !== 0 && code !== 77) throw new Error(err)
  return JSON.parse(out)
}

test('a process: what it holds, and who is at the other ends', async t => {
  const path = socketPath()
  const server = createServer().listen(path)
  await once(server, 'listening')
  const child = start(process.execPath, [
    '-e',
    `const c = require('net').connect(process.argv[1], () => console.log('connected')); c.resume(); process.stdin.resume()`,
    path
  ])
  const [socket] = await once(server, 'connection')
  await child.line()
  const { pid, command: name, uid, descriptors } = await inspected(child.child.pid!)
  t.deepEqual({ pid, uid }, { pid: child.child.pid, uid: process.getuid!() })
  t.true(name.includes(path))
  const stdin = descriptors.find(({ fd }: { fd: number }) => fd === 0)
  t.like(stdin, { kind: 'unix-stream', access: 'read-write' })
  t.true(stdin.peers.some((one: { pid: number }) => one.pid === process.pid))
  const connection = descriptors.find(
    ({ fd, kind, peers }: any) => fd > 2 && kind === 'unix-stream' && peers?.some((one: any) => one.pid === process.pid)
  )
  t.truthy(connection)
  const { code, out } = await shell(['inspect', String(child.child.pid)])
  t.is(code, 0)
  t.regex(out, new RegExp(`^process ${child.child.pid}  .*\\n *FD  KIND +ACCESS +WHAT\\n`))
  t.regex(out, new RegExp(`unix-stream +read-write +other end: process ${process.pid} fd \\d+ `))

  const at = await inspected(path)
  t.is(at.listeners.length, 1)
  t.like(at.listeners[0], { kind: 'unix-stream-listener', waiting: 0, backlog: 511 })
  t.is(at.listeners[0].holders[0].pid, process.pid)
  t.is(at.connections.length, 1)
  t.is(at.connections[0].server.holders[0].pid, process.pid)
  t.is(at.connections[0].client.holders[0].pid, child.child.pid)
  child.child.stdin!.end()
  socket.destroy()
  child.child.kill()
  await child.exit
  server.close()
  await once(server, 'close')
})

test('in another runtime: a sentence names it, not the kernel', async t => {
  const bun = "data:text/javascript,Object.defineProperty(process.versions,'bun',{value:'1.9.9'})"
  const inspect = (target: string) => start(process.execPath, ['--import', bun, command, 'inspect', target])
  const { code, stderr } = await inspect('./some.sock').exit
  t.is(code, 69)
  t.regex(
    stderr,
    /^passfd: Who is at \S+some\.sock is unknown: Bun \(1\.9\.9\) does not run passfd: .* Run this program with Node [\d.]+ or later\.\n$/
  )
  const { line, exit } = inspect(String(process.pid))
  t.true((await line()).startsWith(`process ${process.pid}  `))
  await exit
})

test('a socket: who waits, which bytes and descriptors wait; by a relative path, and an abstract name', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path, backlog: 5 })
  const clients = [native.socket(1), native.socket(1)]
  for (const client of clients) native.connect(client, Buffer.from(path))
  const file = Descriptor.memfd()
  const numbers = new Int32Array([file.borrow()])
  const accepted = native.accept(listener.borrow())
  native.send(clients[0]!, Buffer.from('12345'), 0, 5, numbers, 0, 1)
  const at = await inspected(relative(process.cwd(), path))
  t.is(at.socket, path)
  t.like(at.listeners[0], { waiting: 1, backlog: 5 })
  t.is(at.waiting.length, 1)
  t.is(at.waiting[0].holders[0].fd, clients[1])
  t.is(at.connections.length, 1)
  t.like(at.connections[0].server, { received: 5, inFlight: 1 })
  t.is(at.connections[0].client.holders[0].fd, clients[0])
  const { out } = await shell(['inspect', path])
  t.regex(out, /1 of 5 waits to be accepted/)
  t.regex(
    out,
    new RegExp(
      `connection  process ${process.pid} fd ${clients[0]} .* ↔ process ${process.pid} fd ${accepted} .*, 5 bytes to be read, 1 descriptor in flight`
    )
  )
  for (const each of [...clients, accepted]) native.close(each)
  for (const each of [file, listener]) each.close()

  const name = `passfd-inspect-${process.pid}`
  const server = createServer().listen(`\0${name}`)
  await once(server, 'listening')
  const abstract = await inspected(`@${name}`)
  t.is(abstract.listeners[0].holders[0].pid, process.pid)
  server.close()
  await once(server, 'close')
})

test('datagram sockets: who receives, and who is connected', async t => {
  const path = socketPath()
  const [receiver, sender] = [native.socket(2), native.socket(2)]
  t.true(native.bind(receiver, Buffer.from(path), 0o600) >= 0)
  t.is(native.connect(sender, Buffer.from(path)), 0)
  const at = await inspected(path)
  t.like(at.listeners[0], { kind: 'unix-dgram' })
  t.is(at.listeners[0].holders[0].fd, receiver)
  t.is(at.connections[0].client.holders[0].fd, sender)
  t.regex((await shell(['inspect', path])).out, /receives datagrams/)
  for (const each of [receiver, sender]) native.close(each)
})

test('what is not there', async t => {
  const fail = async (target: string): Promise<[number, string]> => {
    const { code, out, err } = await shell(['inspect', target])
    t.is(out, '')
    return [code, err]
  }
  t.deepEqual(await fail('999999999'), [66, 'passfd: There is no process 999999999. ps(1) lists those that run.\n'])
  const path = socketPath()
  t.deepEqual(await fail(path), [
    69,
    `passfd: Nobody listens at ${path} in this network namespace. Start the program that listens there.\n`
  ])
  t.is((await fail('@passfd-nobody'))[0], 69)
  writeFileSync(path, '')
  t.deepEqual(await fail(path), [66, `passfd: ${path} is not a socket. Name a PID, or the path of a Unix socket.\n`])
  t.regex((await fail('no-such-name'))[1], /Of a file write \.\/no-such-name\.\n$/)
})

testInCiIf(notRoot, 'another user sees what is allowed, is told what is missing, and gets exit code 77', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-public-'))
  chmodSync(folder, 0o755)
  const path = join(folder, 'socket')
  const server = createServer().listen(path)
  await once(server, 'listening')
  const as = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
    const child = spawn(process.execPath, [command, 'inspect', ...args], { uid: NOBODY, gid: NOBODY })
    const streams = captured()
    child.stdout.on('data', text => streams.stdout.write(text))
    child.stderr.on('data', text => streams.stderr.write(text))
    const [code] = await once(child, 'close')
    return { code, out: streams.out, err: streams.err }
  }
  const process_ = await as(String(process.pid))
  t.is(process_.code, 77)
  t.regex(process_.out, new RegExp(`^process ${process.pid}  `))
  t.regex(process_.err, /Only its own user and root may see what process \d+ holds: run this as user 0\.\n/)
  const client = connect(path)
  await once(client, 'connect')
  const socket = await as('--json', path)
  t.is(socket.code, 77)
  t.is(socket.err, '')
  const { listeners, connections, missing } = JSON.parse(socket.out)
  t.like(listeners[0], { holders: [], uid: 0, backlog: 511 })
  t.is(connections.length, 1)
  t.regex(missing[0], /^The holders of 3 other ends are unknown: this user may not see what \d+ of the processes hold/)
  client.destroy()
  server.close()
  await once(server, 'close')
  rmSync(folder, { recursive: true })
})

testInCiIf(notRoot, 'a user sees all of processes of their own', async t => {
  const user = { uid: NOBODY, gid: NOBODY }
  const target = spawn('/bin/sleep', ['100'], { ...user, stdio: 'ignore' })
  await once(target, 'spawn')
  const child = spawn(process.execPath, [command, 'inspect', '--json', String(target.pid)], user)
  child.stderr.resume()
  let out = ''
  child.stdout.on('data', text => {
    out += text
  })
  await once(child, 'close')
  // Whoever started the tests may have left it a pipe or socket with an unknown other end
  const { uid, descriptors, missing: missed = [] } = JSON.parse(out)
  t.is(uid, NOBODY)
  t.like(descriptors[0], { fd: 0, kind: 'device', path: '/dev/null' })
  t.false(missed.some((text: string) => text.includes('Only its own user')))
  target.kill()
  await once(target, 'close')
})

testInCiIf(
  notRoot ?? missing('/usr/bin/unshare', 'util-linux'),
  'a process of another network namespace: its tables are read, and its Unix sockets have no known other ends',
  async t => {
    const path = socketPath()
    const program = `require('net').createServer().listen(80, '127.0.0.1', () => require('net').createServer().listen(process.argv[1], () => console.log('ready')))`
    const running = start('/usr/bin/unshare', [
      '--net',
      'sh',
      '-c',
      'ip link set lo up 2>/dev/null; exec "$0" "$@"',
      process.execPath,
      '-e',
      program,
      path
    ])
    await running.line()
    const { code, out } = await shell(['inspect', '--json', String(running.child.pid)])
    t.is(code, 77)
    const { descriptors, missing: missed } = JSON.parse(out)
    t.regex(missed.join(), /another network namespace: run passfd there, too, by nsenter -n/)
    const unix = descriptors.find((one: { name?: string }) => one.name === path)
    t.like(unix, { kind: 'unix-stream-listener' })
    t.true(descriptors.some((one: { local?: string }) => one.local === '127.0.0.1:80'))
    running.child.kill()
    await running.exit
  }
)

test('texts', t => {
  t.is(printable('a\x1b[31m\u202eb\n'), 'a\\u001b[31m\\u202eb\\u000a')
  t.is(printableJson({ a: '\x9b31m\n' }, 1), '{\n "a": "\\u009b31m\\n"\n}')
  t.deepEqual(JSON.parse(printableJson('\u202e\x7f')), '\u202e\x7f')
  t.is(shortened('abcdef', 4), 'abc…')
  t.is(shortened('abcd', 4), 'abcd')
  const fd = 5
  t.is(
    textOf({ fd, kind: 'file', path: '/x', deleted: true, flags: ['append', 'close-on-exec'] }),
    '/x (deleted), append'
  )
  t.is(
    textOf({ fd, kind: 'tcp', local: 'a:1', remote: 'b:2', state: 'closing', sent: 7, received: 0 }),
    'a:1 ↔ b:2, closing, 7 bytes not confirmed'
  )
  t.is(textOf({ fd, kind: 'pipe', peers: [] }), 'nobody holds the other end')
  t.is(
    textOf({ fd, kind: 'pipe', peers: [], peerHidden: true }),
    'the other end is held by a process that is not shown'
  )
  t.is(textOf({ fd, kind: 'pidfd', pid: -1 }), 'a process that has ended')
  t.is(textOf({ fd, kind: 'epoll', watches: [] }), 'watches nothing')
  t.is(textOf({ fd, kind: 'eventfd', count: '0x1' }), 'count 0x1')
  const holder = (pid: number, fd: number) => ({ pid, fd, command: 'init' })
  const peers = [holder(1, 2), holder(2, 2), holder(1, 3), holder(3, 2), holder(4, 2), holder(1, 4), holder(1, 5)]
  t.is(
    textOf({ fd, kind: 'pipe', peers }),
    'other end: process 1 fd 2 3 4 … (init), process 2 fd 2 (init), process 3 fd 2 (init) and 1 other'
  )
})
