import * as fs from 'node:fs'
import { release } from 'node:os'
import {
  type BindOptions,
  bind,
  connect,
  type DatagramMessage,
  type DatagramSocket,
  type Sender,
  unnamed
} from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { MESSAGE_PIDFD, native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { abstractName, boundPair, closeSockets, nextDatagram } from '../helpers/datagrams.ts'
import { pidOf } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { openDescriptors, test, testIf, until } from '../helpers/test.ts'

const code = (name: string) => ({ code: `ERR_PASSFD_${name}` })
const NO_PIDFD = { ...code('PEER_PIDFD') }
const [major = 0, minor = 0] = release().split('.').map(Number)
const since = (version: number): boolean => major * 1000 + minor >= version
const notRoot = process.getuid!() === 0 ? undefined : 'needs root'

/** The pid of a sender's pidfd, which is closed; -1: it was collected. */
function pinned(sender: Sender): number {
  const pidfd = sender.pidfd()
  try {
    return pidOf(pidfd.borrow())
  } finally {
    pidfd.close()
  }
}

/** A process that sends `data` and the files to `to`, and stays until its stdin ends. */
function python(to: string, data = 'x', files: string[] = [], command: string[] = []) {
  const program = `
import socket, sys
ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ours.connect(sys.argv[1])
files = [open(path) for path in sys.argv[3:]]
socket.send_fds(ours, [sys.argv[2].encode()], [file.fileno() for file in files])
print('sent', flush=True)
sys.stdin.readline()`
  const [first, ...rest] = [...command, systemPython, '-c', program, to, data, ...files]
  return start(first!, rest)
}

test('datagrams of one process share their sender, which nobody can change', async t => {
  const [receiver, sender] = await boundPair()
  const senders: (Sender | undefined)[] = []
  for (const text of ['one', 'two']) {
    await sender.send(text, { to: receiver.address! })
    senders.push((await nextDatagram(receiver)).sender)
  }
  t.is(senders[0], senders[1])
  t.deepEqual({ ...senders[0] }, { pid: process.pid, uid: process.getuid!(), gid: process.getgid!() })
  t.throws(() => Object.assign(senders[0]!, { uid: 1 }), { instanceOf: TypeError })
  await closeSockets(receiver, sender)
})

test('two processes: authorize and the message have the pidfd of the very process that sent', async t => {
  const path = socketPath()
  const seen: number[] = []
  const socket = await bind(path, { pidfd: true, authorize: sender => seen.push(pinned(sender!)) > 0 })
  const [one, two] = [python(path, 'one', ['/dev/null', '/dev/null']), python(path, 'two')]
  const before = openDescriptors().size
  const kept: Descriptor[] = []
  const pids: Record<string, number> = {}
  let first: Sender | undefined
  for await (const { data, sender, descriptors } of socket) {
    t.deepEqual(Object.keys(sender!), ['pid', 'uid', 'gid'])
    t.is(descriptors.length, data.toString() === 'one' ? 2 : 0)
    pids[data.toString()] = sender!.pid
    const [again, pidfd] = [sender!.pidfd(), sender!.pidfd()]
    t.not(again.borrow(), pidfd.borrow(), 'each call gives one of its own')
    again.close()
    t.is(pidfd.kind, 'pidfd')
    t.is(pidOf(pidfd.borrow()), sender!.pid)
    kept.push(pidfd)
    if (kept.length === 2) break
    first = sender
  }
  t.deepEqual(pids, { one: one.child.pid!, two: two.child.pid! })
  t.deepEqual(seen.sort(), [one.child.pid!, two.child.pid!].sort())
  t.throws(() => first!.pidfd(), { ...NO_PIDFD, message: /the scope of its datagram has ended/ })
  await until(() => native.pendingCloses() === 0, 'the closing')
  t.is(openDescriptors().size, before + 2, 'only those that were taken are left')
  for (const running of [one, two]) {
    running.child.stdin!.end()
    await running.exit
  }
  t.deepEqual(
    kept.map(pidfd => pidOf(pidfd.borrow())),
    [-1, -1],
    'they mean that process, whoever gets its pid'
  )
  for (const pidfd of kept) pidfd.close()
  await socket.close()
})

test('a sender that has ended, and was collected, before its datagram is read', async t => {
  const path = socketPath()
  const socket = await bind(path, { pidfd: true })
  const running = python(path)
  await running.line()
  running.child.stdin!.end()
  await running.exit
  let tested = false
  for await (const { sender } of socket) {
    t.is(sender!.pid, running.child.pid!)
    tested = true
    if (since(6017)) t.is(pinned(sender!), -1)
    else t.throws(() => sender!.pidfd(), { ...NO_PIDFD, message: /has ended and was collected/ })
    break
  }
  t.true(tested)
  await socket.close()
})

test('a kernel that can make no pidfd says why in its place: the datagram comes all the same', async t => {
  for (const [errno, expected] of [
    [-3, { message: /has ended and was collected/ }],
    [-22, { message: /has ended and was collected/ }],
    [-24, { message: /the system refused it/ }]
  ] as const) {
    const [socket, sender] = await boundPair({ pidfd: true })
    await sender.send('x', { to: socket.address! })
    let error: (Error & { cause?: unknown }) | undefined
    await patched(
      'receiveMessage',
      original =>
        (...given) => {
          const length = original(...given)
          const results = given[4]
          if (length < 0 || results[MESSAGE_PIDFD]! < 0) return length
          native.close(results[MESSAGE_PIDFD]!)
          results[MESSAGE_PIDFD] = errno
          return length
        },
      async () => {
        for await (const message of socket) {
          error = t.throws(() => message.sender!.pidfd(), { ...NO_PIDFD, ...expected })
          break
        }
      }
    )
    t.like(error!.cause, { errno, syscall: 'recvmsg' })
    await closeSockets(socket, sender)
  }
})

test('without the option there is none, also from a socket whose owner has switched it on', async t => {
  const [socket, sender] = await boundPair()
  const before = openDescriptors().size
  await sender.send('x', { to: socket.address! })
  t.throws((await nextDatagram(socket)).sender!.pidfd, NO_PIDFD)
  const [left, right] = Descriptor.socketpair({ type: 'dgram' })
  native.passPidfd(left.borrow(), true)
  const [one, two] = [await connect(left), await connect(right)]
  t.is(openDescriptors().size, before + 2)
  for (let round = 0; round < 3; round++) {
    await two.send('x')
    const message = await nextDatagram(one)
    t.throws(() => message.sender!.pidfd(), { ...NO_PIDFD, message: /without the option pidfd: true/ })
    t.is(openDescriptors().size, before + 2)
  }
  await closeSockets(socket, sender, one, two)
})

test('each way to open a socket: a name, none, one end of a pair, one that was given', async t => {
  const options: BindOptions = { pidfd: true }
  const server = await bind(undefined, options)
  const [left, right] = Descriptor.socketpair({ type: 'dgram' })
  const ends = [await connect(left, options), await connect(right, options)] as const
  const client = await connect(server.address!, { ...options, from: true })
  const silent = await connect(server.address!, options)
  const free = unnamed(options)
  const raw = native.socket(2)
  native.bind(raw, Buffer.from(`\0${abstractName().abstract}`), -1)
  const adopted = await bind(Descriptor.adopt(dupOf(raw)), options)
  for (const [receiver, send] of [
    [server, () => client.send('x')],
    [server, () => silent.send('x')],
    [server, () => free.send('x', { to: server.address! })],
    [client, () => server.send('x', { to: client.address! })],
    [adopted, () => free.send('x', { to: adopted.address! })],
    [ends[0], () => ends[1].send('x')],
    [ends[1], () => ends[0].send('x')]
  ] as [DatagramSocket, () => Promise<void>][]) {
    const heard = new Promise<number>((resolve, reject) =>
      receiver.once('message', ({ sender }) => {
        try {
          resolve(pinned(sender!))
        } catch (error) {
          reject(error as Error)
        }
      })
    )
    await send()
    t.is(await heard, process.pid)
  }
  native.close(raw)
  await closeSockets(server, client, silent, free, adopted, ...ends)
})

/** Not the shim's any more. */
function dupOf(fd: number): number {
  const copy = native.dup(fd)
  native.release(copy)
  return copy
}

test('what is dropped has it while its listeners run, and then it is closed', async t => {
  let verdict: 'no' | 'throws' | 'yes' = 'yes'
  const socket = await bind(abstractName(), {
    pidfd: true,
    maxMessage: 10,
    maxDescriptors: 1,
    authorize: sender => {
      t.is(pinned(sender!), process.pid)
      if (verdict === 'throws') throw new Error('mine')
      return verdict === 'yes'
    }
  })
  socket.on('message', () => t.fail())
  const sender = unnamed()
  const before = openDescriptors().size
  const files = (count: number) => Array.from({ length: count }, () => Descriptor.openSync('/dev/null'))
  for (const [answer, data, count, expected] of [
    ['no', 'x', 1, 'UNAUTHORIZED'],
    ['throws', 'x', 1, 'AUTHORIZE_FAILED'],
    ['yes', 'more than ten', 1, 'DATAGRAM_CUT'],
    ['yes', 'x', 2, 'TOO_MANY_DESCRIPTORS'],
    ['yes', 'x', 253, 'TOO_MANY_DESCRIPTORS']
  ] as const) {
    verdict = answer
    let dropped: Sender | undefined
    const told = new Promise<string>((resolve, reject) =>
      socket.once('dropped', (error, facts) => {
        dropped = facts.sender
        try {
          t.is(pinned(dropped!), process.pid)
          resolve(error.code)
        } catch (failure) {
          reject(failure as Error)
        }
      })
    )
    await sender.send(data, { to: socket.address!, descriptors: files(count) })
    t.is(await told, `ERR_PASSFD_${expected}`)
    await new Promise(resolve => setImmediate(resolve))
    t.throws(() => dropped!.pidfd(), NO_PIDFD)
    await until(() => native.pendingCloses() === 0, 'the closing')
    t.is(openDescriptors().size, before)
  }
  await closeSockets(socket, sender)
})

test('253 descriptors and a pidfd come together; listeners, dispose and destroy() end its scope', async t => {
  const [socket, sender] = await boundPair({ pidfd: true })
  const before = openDescriptors().size
  const send = (count = 0) =>
    sender.send('x', {
      to: socket.address!,
      descriptors: Array.from({ length: count }, () => Descriptor.openSync('/dev/null'))
    })
  await send(253)
  const message = await nextDatagram(socket)
  t.is(message.descriptors.length, 253)
  for (const descriptor of message.descriptors) descriptor.close()
  t.throws(() => message.sender!.pidfd(), NO_PIDFD, 'the listener has returned, and claim() is for what came with it')
  t.is(openDescriptors().size, before)
  await send()
  await send()
  const seen: DatagramMessage[] = []
  for await (const each of socket) {
    seen.push(each)
    t.is(pinned(each.sender!), process.pid)
    if (seen.length === 1) {
      each[Symbol.dispose]()
      t.throws(() => each.sender!.pidfd(), NO_PIDFD)
      continue
    }
    socket.destroy()
    t.is(pinned(each.sender!), process.pid, 'the scope of this one goes on')
  }
  t.is(seen.length, 2)
  t.throws(() => seen[1]!.sender!.pidfd(), NO_PIDFD)
  await closeSockets(socket, sender)
  t.is(openDescriptors().size, before - 2)
})

test('what the kernel knows no process of has no pidfd', async t => {
  const name = socketPath()
  const fd = native.socket(2)
  native.bind(fd, Buffer.from(name), 0o600)
  const sender = unnamed()
  await sender.send('before', { to: name })
  const socket = await bind(Descriptor.adopt(releaseOf(fd)), { pidfd: true, authorize: () => true })
  await sender.send('after', { to: name })
  const told: unknown[] = []
  for await (const { data, sender: who } of socket) {
    told.push(data.toString(), who === undefined ? undefined : pinned(who))
    if (told.length === 4) break
  }
  t.deepEqual(told, ['before', undefined, 'after', process.pid])
  await closeSockets(socket, sender)
  fs.unlinkSync(name)
})

function releaseOf(fd: number): number {
  native.release(fd)
  return fd
}

test('a kernel before Linux 6.5: opening says so, and leaves what it was given', async t => {
  const path = socketPath()
  const server = await bind(abstractName())
  const [left, right] = Descriptor.socketpair({ type: 'dgram' })
  const before = openDescriptors().size
  await patched(
    'passPidfd',
    () => () => -92,
    async () => {
      const expected = { ...NO_PIDFD, message: /it takes Linux 6\.5/ }
      const options = { pidfd: true }
      await t.throwsAsync(bind(path, options), expected)
      await t.throwsAsync(bind(undefined, options), expected)
      await t.throwsAsync(bind(left, options), expected)
      await t.throwsAsync(connect(left, options), expected)
      await t.throwsAsync(connect(server.address!, options), expected)
      await t.throwsAsync(connect(server.address!, { ...options, from: true }), expected)
      t.throws(() => unnamed(options), expected)
      await (await bind(undefined, { pidfd: false })).close()
    }
  )
  t.false(fs.existsSync(path))
  t.false(left.closed)
  t.is(openDescriptors().size, before)
  left.close()
  right.close()
  await server.close()
  for (const wrong of [1, 'yes', null, {}])
    t.throws(() => unnamed({ pidfd: wrong as never }), { ...code('INVALID_ARGUMENT'), message: /options\.pidfd|pidfd/ })
})

testIf(notRoot, 'a sender in a pid namespace of its own, and one outside of ours', async t => {
  const path = socketPath()
  const socket = await bind(path, { pidfd: true })
  const inner = python(path, 'from inside', [], ['unshare', '--pid', '--fork', '--kill-child'])
  for await (const { sender } of socket) {
    t.true(sender!.pid > 0)
    t.is(pinned(sender!), sender!.pid)
    break
  }
  inner.child.stdin!.end()
  await inner.exit
  await socket.close()
  const program = `
    import { readFileSync } from 'node:fs'
    import { bind } from '${new URL('../../build/dist/datagram/index.js', import.meta.url).pathname}'
    const socket = await bind(process.argv[1], { pidfd: true })
    console.log('bound')
    for await (const { sender } of socket) {
      const pidfd = sender.pidfd()
      console.log(JSON.stringify([sender.pid, pidfd.kind, /^Pid:\\t(.*)$/m.exec(readFileSync('/proc/self/fdinfo/' + pidfd.borrow(), 'utf8'))[1]]))
      pidfd.close()
      break
    }
    await socket.close()`
  const receiver = start('unshare', [
    ...['--pid', '--fork', '--kill-child', '--mount-proc', process.execPath],
    ...['--input-type=module', '-e', program, path]
  ])
  t.is(await receiver.line(), 'bound')
  const outer = unnamed()
  await outer.send('from outside', { to: path })
  t.deepEqual(
    JSON.parse(await receiver.line()),
    [0, 'pidfd', '0'],
    'its pid has no number there, and it is pinned all the same'
  )
  t.like(await receiver.exit, { code: 0, stderr: '' })
  await outer.close()
})
