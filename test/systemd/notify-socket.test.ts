import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { Descriptor } from '../../src/index.ts'
import { parseNotification } from '../../src/systemd/notification.ts'
import { NotifySocket } from '../../src/systemd/notify-socket.ts'
import { type Running, start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { test, testIf, until } from '../helpers/test.ts'

const python = fileURLToPath(new URL('../fixtures/prefork-notify.py', import.meta.url))
const interpreter = '/usr/bin/python3'
const withoutSystemd = missing('/usr/bin/systemd-notify', 'systemd')

type Fields = Record<string, string>

/** A process that says what it is told to, as a Python expression. */
class Sender {
  readonly running: Running
  readonly heard: Fields[] = []
  pid = 0

  constructor(socket: NotifySocket, { uid, extra = [] }: { uid?: number; extra?: number[] } = {}) {
    this.running = start(interpreter, [python], {
      env: { ...process.env, NOTIFY_SOCKET: socket.address },
      stdio: ['pipe', 'pipe', 'pipe', ...extra],
      ...(uid === undefined ? {} : { uid, gid: uid })
    })
  }

  async started(): Promise<this> {
    this.pid = Number(await this.running.line())
    return this
  }

  watchedBy(socket: NotifySocket): this {
    socket.watch(this.pid, fields => this.heard.push(Object.fromEntries(fields)))
    return this
  }

  tell(line: string): void {
    this.running.child.stdin!.write(`${line}\n`)
  }

  async say(expression: string): Promise<string> {
    this.tell(expression)
    return this.running.line()
  }

  async end(): Promise<void> {
    this.running.child.stdin!.end()
    await this.running.exit
  }
}

async function opened(
  work: (
    socket: NotifySocket,
    sender: (options?: { uid?: number; extra?: number[] }) => Promise<Sender>
  ) => Promise<void>
): Promise<void> {
  const socket = await NotifySocket.open()
  const senders: Sender[] = []
  try {
    await work(socket, options => {
      const made = new Sender(socket, options)
      senders.push(made)
      return made.started()
    })
  } finally {
    for (const sender of senders) await sender.end()
    await socket.close()
  }
}

test('a watched process is heard, with what it says of itself', t =>
  opened(async (socket, sender) => {
    t.regex(socket.address, /^@passfd-[0-9a-f]{32}$/)
    const worker = (await sender()).watchedBy(socket)
    await worker.say(String.raw`b'READY=1\nSTATUS=all = well\n',`)
    await worker.say(String.raw`b'WATCHDOG=1\nERRNO=2\nX_MINE=\n\nnothing\n=x\nlower=1\nSTOPPING=1',`)
    await until(() => worker.heard.length === 2, 'two messages')
    t.deepEqual(worker.heard, [
      { READY: '1', STATUS: 'all = well' },
      { WATCHDOG: '1', ERRNO: '2', X_MINE: '', STOPPING: '1' }
    ])
  }))

test('a process that is not watched, not yet or not any more, is not heard', t =>
  opened(async (socket, sender) => {
    const [worker, stranger, third] = [await sender(), await sender(), await sender()]
    worker.watchedBy(socket)
    third.watchedBy(socket)
    socket.unwatch(third.pid)
    await stranger.say(`b'READY=1',`)
    await third.say(`b'READY=1',`)
    await worker.say(`b'STATUS=last',`)
    await until(() => worker.heard.length > 0, 'the message')
    t.deepEqual(
      [worker, stranger, third].map(({ heard }) => heard),
      [[{ STATUS: 'last' }], [], []]
    )
  }))

test('it is the process that counts, not its user', t =>
  opened(async (socket, sender) => {
    const worker = (await sender({ uid: 65534 })).watchedBy(socket)
    const sameUser = await sender({ uid: 65534 })
    t.is(await sameUser.say(`b'READY=1\\nSTATUS=I am another one',`), 'sent')
    await worker.say(`b'READY=1',`)
    await until(() => worker.heard.length > 0, 'the message')
    t.deepEqual(worker.heard, [{ READY: '1' }])
  }))

test('a process without privileges can not claim to be a watched one', t =>
  opened(async (socket, sender) => {
    const worker = (await sender()).watchedBy(socket)
    const liar = await sender({ uid: 65534 })
    liar.tell(`as ${worker.pid} 65534`)
    t.is(await liar.say(`b'READY=1',`), 'Operation not permitted')
    await worker.say(`b'STATUS=here',`)
    await until(() => worker.heard.length > 0, 'the message')
    t.deepEqual(worker.heard, [{ STATUS: 'here' }])
  }))

test('descriptors that come along are closed, whoever sends them, and what only systemd can do is not told', t =>
  opened(async (socket, sender) => {
    const { readable, writable } = Descriptor.pipe()
    const extra = [writable.borrow()]
    const [worker, stranger] = [await sender({ extra }), await sender({ extra })]
    writable.close()
    worker.watchedBy(socket)
    await stranger.say(`b'FDSTORE=1\\nREADY=1', 3, 3, 3`)
    await worker.say(`b'FDSTORE=1\\nFDNAME=x\\nMAINPID=1\\nREADY=1', 3, 3`)
    await worker.say(`b'BARRIER=1', 3`)
    await worker.say(`b'', 3`)
    await worker.say(`b'STATUS=end',`)
    await until(() => worker.heard.length === 2, 'two messages')
    t.deepEqual(worker.heard, [{ READY: '1' }, { STATUS: 'end' }])
    await Promise.all([worker.end(), stranger.end()])
    // The senders have gone, so it is the end of the file once all our copies are closed
    const stream = readable.toReadable().resume()
    await once(stream, 'close')
    t.true(stream.readableEnded)
  }))

test('what makes no sense disturbs nothing', t =>
  opened(async (socket, sender) => {
    const worker = (await sender()).watchedBy(socket)
    for (const junk of ["b''", "b'\\xff' * 65536", "b'=' * 65536", "b'\\n' * 65536", "b'A=' + b'x' * 65536", "b'\\0'"])
      t.is(await worker.say(`${junk},`), 'sent', junk)
    await worker.say(`b'\\xff\\nREADY=1\\nSTATUS=\\xffa\\x1b[31m\\tb\\r',`)
    await until(() => worker.heard.length > 0, 'the message')
    t.deepEqual(worker.heard, [{ READY: '1', STATUS: '\ufffda\ufffd[31m\ufffdb\ufffd' }])
  }))

test('a stranger who floods it does not keep a worker from being heard', t =>
  opened(async (socket, sender) => {
    const [worker, stranger] = [await sender(), await sender()]
    worker.watchedBy(socket)
    for (let count = 0; count < 500; count++) stranger.tell(`b'READY=1' * 1000,`)
    await worker.say(`b'READY=1',`)
    await until(() => worker.heard.length > 0, 'the message')
    await stranger.end()
    t.deepEqual(worker.heard, [{ READY: '1' }])
  }))

test('the kernel knows who has sent a message also when that process has ended and was waited for', t =>
  opened(async socket => {
    // The loop does not turn meanwhile, so nothing is read
    const env = { ...process.env, NOTIFY_SOCKET: socket.address }
    const { pid, status } = spawnSync(interpreter, [python], { env, input: "b'STOPPING=1',\n" })
    t.is(status, 0)
    t.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
    const heard: Fields[] = []
    socket.watch(pid, fields => heard.push(Object.fromEntries(fields)))
    await until(() => heard.length > 0, 'the message')
    t.deepEqual(heard, [{ STOPPING: '1' }])
  }))

testIf(withoutSystemd, 'systemd-notify, from a shell script', t =>
  opened(async socket => {
    const child = spawn(
      'sh',
      ['-c', 'systemd-notify --ready --status="up and running"; systemd-notify STOPPING=1; read nothing'],
      { env: { ...process.env, NOTIFY_SOCKET: socket.address }, stdio: ['pipe', 'inherit', 'inherit'] }
    )
    const heard: Fields[] = []
    socket.watch(child.pid!, fields => heard.push(Object.fromEntries(fields)))
    await until(() => heard.length === 2, 'two messages')
    child.stdin.end()
    await once(child, 'exit')
    t.deepEqual(heard, [{ READY: '1', STATUS: 'up and running' }, { STOPPING: '1' }])
  })
)

testIf(withoutSystemd, 'systemd-notify waits for its barrier, and not for ever', t =>
  opened(async socket => {
    // Its own process is the one that is watched; a barrier that nobody closes takes it five seconds, and an error
    const child = spawn('systemd-notify', ['--pid=self', 'READY=1'], {
      env: { ...process.env, NOTIFY_SOCKET: socket.address },
      stdio: 'inherit'
    })
    const heard: Fields[] = []
    socket.watch(child.pid!, fields => heard.push(Object.fromEntries(fields)))
    const started = performance.now()
    t.deepEqual(await once(child, 'exit'), [0, null])
    t.true(performance.now() - started < 4000)
    t.deepEqual(heard, [{ READY: '1' }])
  })
)

test('it does not keep the process running', async t => {
  const child = start(process.execPath, ['--input-type=module', '-e', UNREF])
  t.is(await child.line(), 'open')
  t.is((await child.exit).code, 0)
})

const UNREF = `
import { NotifySocket } from ${JSON.stringify(new URL('../../build/dist/systemd/notify-socket.js', import.meta.url))}
const socket = await NotifySocket.open()
socket.watch(1, () => {})
console.log('open')`

test('after close nobody is heard, and the name is gone', async t => {
  const socket = await NotifySocket.open()
  const other = await NotifySocket.open()
  t.not(socket.address, other.address)
  await socket.close()
  await other[Symbol.asyncDispose]()
  const sender = new Sender(socket)
  sender.running.child.stdin!.end()
  const { code, stderr } = await sender.running.exit
  t.is(code, 1)
  t.regex(stderr, /ConnectionRefusedError/)
})

const text = (from: string) => Object.fromEntries(parseNotification(Buffer.from(from)))

test('assignments, line by line', t => {
  t.deepEqual(text('READY=1'), { READY: '1' })
  t.deepEqual(text('A=1\nB=2\n'), { A: '1', B: '2' })
  t.deepEqual(text('A=1\nA=2'), { A: '1' }, 'the first one counts')
  t.deepEqual(text('A==\nB=\n=\nC\n D=1\n1=1\na=1\n__proto__=1'), { A: '=', B: '' })
  t.deepEqual(text(''), {})
  t.deepEqual(parseNotification(Buffer.from('xA=1x').subarray(1, 4)), new Map([['A', '1']]), 'a part of a buffer')
})

test('there are bounds: 64 KiB, 64 fields, 64 characters of a name', t => {
  t.deepEqual(text(`${'x'.repeat(65_532)}\nA=12`), { A: '1' })
  t.deepEqual(text(`${'x'.repeat(65_536)}\nA=1`), {})
  const many = Array.from({ length: 70 }, (_, index) => `A${index}=${index}`)
  t.deepEqual(Object.keys(text(many.join('\n'))).length, 64)
  t.deepEqual(Object.keys(text(`${'A'.repeat(64)}=\n${'B'.repeat(65)}=`)), ['A'.repeat(64)])
})

test('any bytes give fields that are safe to show', t => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ maxLength: 2000 }),
        fc
          .array(fc.constantFrom('A', '=', '\n', '\0', '\x1b', '1', 'é'), { maxLength: 200 })
          .map(all => Buffer.from(all.join('')))
      ),
      bytes => {
        const before = Buffer.from(bytes)
        const fields = parseNotification(bytes)
        for (const [name, value] of fields) t.true(/^[A-Z][A-Z0-9_]*$/.test(name) && !/\p{Cc}/u.test(value))
        t.true(fields.size <= 64 && before.equals(bytes))
      }
    )
  )
  t.pass()
})
