import { once } from 'node:events'
import * as fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { connect, Descriptor, listen } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { isFull, times } from '../helpers/full.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { type Running, startFixture } from '../helpers/process.ts'
import { NOBODY, publicDirectory, publicPath } from '../helpers/public.ts'
import { test, until } from '../helpers/test.ts'

const EAGAIN = -11
const PERMISSIONS = 0o777

function modeOf(path: string): number {
  return fs.lstatSync(path).mode & PERMISSIONS
}

function withUmask<T>(mask: number, body: () => T): T {
  const before = process.umask(mask)
  try {
    return body()
  } finally {
    process.umask(before)
  }
}

/** A socket file whose listener is gone. */
function deadSocket(path = socketPath()): string {
  const fd = native.socket(1)
  native.bind(fd, Buffer.from(path), 0o600)
  native.listen(fd, 1)
  native.close(fd)
  return path
}

test('bind gives a socket file its mode, even if the umask takes nothing away', t => {
  withUmask(0, () => {
    for (const mode of [0o600, 0o660, 0o666, 0o000]) {
      const path = socketPath()
      const fd = native.socket(1)
      t.is(native.bind(fd, Buffer.from(path), mode), 0)
      t.is(modeOf(path), mode)
      native.close(fd)
      fs.unlinkSync(path)
    }
  })
})

test('a socket file is never wider than asked for, and is as asked for in the end', async t => {
  const cases = [
    { mode: undefined, umask: 0, final: 0o600 },
    { mode: 0o666, umask: 0, final: 0o666 },
    { mode: 0o666, umask: 0o077, final: 0o666 },
    { mode: 0o660, umask: 0o777, final: 0o660 }
  ]
  for (const { mode, umask, final } of cases) {
    const path = socketPath()
    let first = -1
    await patched(
      'bind',
      bind => (fd, name, wanted) => {
        const result = bind(fd, name, wanted)
        first = modeOf(path)
        return result
      },
      async () => {
        const before = process.umask(umask)
        const server = await listen(path, mode === undefined ? {} : { mode })
        process.umask(before)
        t.is(first & ~final, 0, `at first ${first.toString(8)}`)
        t.is(modeOf(path), final)
        await server.close()
      }
    )
  }
})

test('listen and bind both create with 0600 by default', async t => {
  const before = process.umask(0)
  const path = socketPath()
  const descriptor = await Descriptor.bind({ path })
  process.umask(before)
  t.is(modeOf(path), 0o600)
  t.is(descriptor.kind, 'unix-stream-listener')
  descriptor.close()
})

test('a file of mode 0600 keeps other users out', async t => {
  const path = publicPath()
  const server = await listen(path)
  const child = startFixture('connect-as', [`${NOBODY}`, path])
  t.deepEqual(JSON.parse(await child.line()), { code: 'EACCES', syscall: 'connect', address: path })
  await child.exit
  await server.close()
})

test('trap 30: a dead socket file is replaced, one of somebody alive is not', async t => {
  const path = deadSocket()
  const server = await listen(path)
  await t.throwsAsync(listen(path), { code: 'EADDRINUSE', message: new RegExp(path) })
  const channel = await connect(path)
  await channel.close()
  await server.close()
  t.false(fs.existsSync(path))
})

test('trap 30: a listener whose queue is full is alive', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path, backlog: 0 })
  const waiting = fillBacklog(path)
  const { ino } = fs.lstatSync(path)
  await t.throwsAsync(listen(path), { code: 'EADDRINUSE' })
  t.is(fs.lstatSync(path).ino, ino)
  for (const fd of waiting) native.close(fd)
  listener.close()
})

test('trap 30: what is not a socket is left alone', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, 'precious')
  await t.throwsAsync(listen(path), { code: 'ERR_PASSFD_ADDRESS_IN_USE_BY_FILE' })
  t.is(fs.readFileSync(path, 'utf8'), 'precious')
  const directory = temporaryPath()
  fs.mkdirSync(directory)
  await t.throwsAsync(listen(directory), { code: 'ERR_PASSFD_ADDRESS_IN_USE_BY_FILE' })
  const link = temporaryPath()
  fs.symlinkSync(deadSocket(), link)
  await t.throwsAsync(listen(link), { code: 'ERR_PASSFD_ADDRESS_IN_USE_BY_FILE' })
  t.true(fs.lstatSync(link).isSymbolicLink())
  t.true(fs.statSync(link).isSocket())
})

test('trap 30: close removes its own socket file, never a successor’s', async t => {
  const path = socketPath()
  const predecessor = await listen(path)
  fs.unlinkSync(path)
  const successor = await listen(path)
  const { ino } = fs.lstatSync(path)
  await predecessor.close()
  t.is(fs.lstatSync(path).ino, ino)
  await (await connect(path)).close()
  await successor.close()
  t.false(fs.existsSync(path))
  // … and whatever else stands there by then
  const third = await listen(path)
  fs.unlinkSync(path)
  fs.writeFileSync(path, 'precious')
  await third.close()
  t.is(fs.readFileSync(path, 'utf8'), 'precious')
})

test('trap 30: a relative path is removed although the directory has changed', async t => {
  const before = process.cwd()
  const directory = temporaryPath('directory')
  fs.mkdirSync(directory)
  process.chdir(directory)
  const server = await listen('relative')
  t.is(server.address, 'relative')
  process.chdir(before)
  t.true(fs.lstatSync(join(directory, 'relative')).isSocket())
  await server.close()
  t.deepEqual(fs.readdirSync(directory), [])
})

test('a server closes without an error after the folder of its socket file was removed, or is a file', async t => {
  for (const isFile of [false, true]) {
    const directory = temporaryPath('directory')
    fs.mkdirSync(directory)
    const server = await listen(join(directory, 'socket'))
    fs.rmSync(directory, { recursive: true })
    if (isFile) fs.writeFileSync(directory, 'precious')
    const closed = once(server, 'close')
    await server.close()
    t.deepEqual(await closed, [], 'no error')
    t.is(fs.existsSync(directory), isFile)
  }
})

for (const count of isFull ? [2, 8] : [2])
  test(`trap 30: of ${count} processes that start at once on a dead path one wins, and none is cut off`, async t => {
    const directory = temporaryPath('race')
    fs.mkdirSync(directory)
    const racers = Array.from({ length: count }, () => startFixture('listen-race'))
    for (const racer of racers) t.is(await racer.line(), 'ready')
    for (let round = 0; round < times(3, 6); round++) {
      const path = deadSocket(join(directory, `socket-${round}`))
      const outcomes = await ask(racers, path)
      t.deepEqual(outcomes.slice().sort(), [...Array(count - 1).fill('EADDRINUSE'), 'listening'])
      const winner = racers[outcomes.indexOf('listening')]!
      const channel = await connect(path)
      t.is(channel.peer.pid, winner.child.pid!)
      t.is(await channel.request('who?'), winner.child.pid!)
      await channel.close()
      t.deepEqual(await ask(racers, 'close'), Array(count).fill('closed'))
      t.false(fs.existsSync(path))
    }
    for (const { child } of racers) child.stdin!.end()
    for (const { exit } of racers) t.like(await exit, { code: 0, stderr: '' })
  })

function ask(racers: Running[], line: string): Promise<string[]> {
  for (const { child } of racers) child.stdin!.write(`${line}\n`)
  return Promise.all(racers.map(racer => racer.line()))
}

test('trap 30: starting and closing wait for whoever holds the lock on the directory', async t => {
  const path = deadSocket()
  const { ino } = fs.lstatSync(path)
  const directory = fs.openSync(dirname(path), 'r')
  t.is(native.lock(directory, true), 0)
  let refused = 0
  await patched(
    'lock',
    countingEagain(() => refused++),
    async () => {
      const starting = listen(path)
      await until(() => refused >= 2, 'attempts to take the lock')
      t.is(fs.lstatSync(path).ino, ino)
      native.lock(directory, false)
      const server = await starting
      refused = 0
      native.lock(directory, true)
      const closing = server.close()
      await until(() => refused >= 2, 'attempts to take the lock')
      t.true(fs.existsSync(path))
      native.lock(directory, false)
      await closing
      t.false(fs.existsSync(path))
    }
  )
  fs.closeSync(directory)
})

test('a lock that is never given back ends the attempt', async t => {
  const path = socketPath()
  const directory = fs.openSync(dirname(path), 'r')
  native.lock(directory, true)
  const { now } = performance
  let late = 0
  performance.now = () => now.call(performance) + late
  try {
    await patched(
      'lock',
      countingEagain(() => (late = 5001)),
      async () => {
        await t.throwsAsync(listen(path), { code: 'ERR_PASSFD_ADDRESS_LOCKED', message: new RegExp(path) })
      }
    )
  } finally {
    performance.now = now
    fs.closeSync(directory)
  }
})

test('where the directory can’t be read nothing is locked and nothing is removed', async t => {
  const directory = publicDirectory(0o300)
  const path = deadSocket(join(directory, 'dead'))
  fs.chmodSync(path, 0o666)
  const child = startFixture('listen-as', [`${NOBODY}`, path, join(directory, 'fresh')])
  t.is(await child.line(), 'EADDRINUSE')
  t.is(await child.line(), 'listening')
  t.true(fs.lstatSync(join(directory, 'fresh')).isSocket())
  child.child.stdin!.end()
  t.is((await child.exit).code, 0)
  t.deepEqual(fs.readdirSync(directory), ['dead'])
})

test('trap 30: paths longer than 107 bytes are reached through their directory', async t => {
  const directory = dirname(temporaryPath())
  for (const length of [107, 108, 109, 250]) {
    const folder = join(directory, `${length}`.padEnd(length - directory.length - 12, 'd'))
    fs.mkdirSync(folder)
    const path = join(folder, 's'.repeat(length - folder.length - 1))
    t.is(Buffer.byteLength(path), length)
    const server = await listen(path)
    t.is(modeOf(path), 0o600)
    const channel = await connect(path)
    await channel.close()
    await t.throwsAsync(listen(path), { code: 'EADDRINUSE' })
    await server.close()
    t.false(fs.existsSync(path))
    deadSocket(relativeTo(folder, path))
    await (await listen(path)).close()
    t.false(fs.existsSync(path))
  }
})

/** The same file by a name that fits. */
function relativeTo(directory: string, path: string): string {
  const link = temporaryPath('link')
  fs.symlinkSync(directory, link)
  return join(link, basename(path))
}

test('trap 30: the last component of a long path has to fit', async t => {
  const directory = dirname(temporaryPath())
  const error = await t.throwsAsync(listen(join(directory, 's'.repeat(200))), { code: 'ERR_PASSFD_ADDRESS_TOO_LONG' })
  const most = Number(/at most (\d+) bytes/.exec(error.message)?.[1])
  t.true(most > 60, error.message)
  const folder = join(directory, 'd'.repeat(100))
  fs.mkdirSync(folder)
  const server = await listen(join(folder, 'x'.repeat(most)))
  await server.close()
  await t.throwsAsync(listen(join(folder, 'x'.repeat(most + 1))), { code: 'ERR_PASSFD_ADDRESS_TOO_LONG' })
  await t.throwsAsync(connect(join(folder, 'x'.repeat(most + 1))), { code: 'ERR_PASSFD_ADDRESS_TOO_LONG' })
  t.deepEqual(fs.readdirSync(folder), [])
})

test('trap 31: an abstract name is checked by uid', async t => {
  const abstract = `passfd-${process.pid}-${Math.random()}`
  const server = await listen({ abstract })
  const channel = await connect({ abstract })
  t.is(channel.peer.pid, process.pid)
  await channel.close()
  await t.throwsAsync(listen({ abstract }), { code: 'EADDRINUSE', message: new RegExp(`@${abstract}`) })
  const [child, [peer, error]] = await Promise.all([
    startFixture('connect-as', [`${NOBODY}`, `@${abstract}`]),
    once(server, 'refused')
  ])
  t.like(peer, { pid: child.child.pid, uid: NOBODY, gid: NOBODY })
  t.is(error.code, 'ERR_PASSFD_UNAUTHORIZED')
  t.like(JSON.parse(await child.line()), { code: 'ERR_PASSFD_PEER', remote: { code: 'ERR_PASSFD_UNAUTHORIZED' } })
  await child.exit
  await server.close()
  await t.throwsAsync(connect({ abstract }), { code: 'ECONNREFUSED' })
})

test('abstract names: any bytes, 107 at most', async t => {
  for (const abstract of ['n'.repeat(107), `é${Math.random()}`, `with\0${Math.random()}`]) {
    const server = await listen({ abstract })
    await (await connect({ abstract })).close()
    await server.close()
  }
  await t.throwsAsync(listen({ abstract: 'n'.repeat(108) }), { code: 'ERR_PASSFD_ADDRESS_TOO_LONG' })
  await t.throwsAsync(connect({ abstract: 'é'.repeat(54) }), { code: 'ERR_PASSFD_ADDRESS_TOO_LONG' })
})

test('what is no address is refused', async t => {
  const wrong = ['', 'a\0b', {}, { path: '' }, { path: 3 }, { abstract: '' }, { path: 'a', abstract: 'b' }, null, 7]
  for (const address of wrong) {
    await t.throwsAsync(listen(address as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    await t.throwsAsync(connect(address as never), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
  }
})

test('system errors keep Node’s shape', async t => {
  const path = join(temporaryPath(), 'socket')
  await t.throwsAsync(listen(path), { code: 'ENOENT' })
  await t.throwsAsync(connect(path), {
    code: 'ENOENT',
    message: `ENOENT: no such file or directory, connect '${path}'`
  })
  const dead = deadSocket()
  const error = (await t.throwsAsync(connect(dead))) as NodeJS.ErrnoException & { address: string }
  t.like(error, { code: 'ECONNREFUSED', errno: -111, syscall: 'connect', address: dead })
})

test('trap 32: connect waits for room in a full backlog', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path, backlog: 0 })
  const waiting = fillBacklog(path)
  let refused = 0
  await patched(
    'connect',
    countingEagain(() => refused++),
    async () => {
      const connecting = connect(path)
      await until(() => refused >= 2, 'attempts to connect')
      for (const fd of waiting) native.close(fd)
      const server = await listen(listener)
      const channel = await connecting
      t.is(channel.peer.pid, process.pid)
      await channel.close()
      await server.close()
    }
  )
})

test('trap 32: no room within handshakeTimeout, or an abort, ends the attempt', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path, backlog: 0 })
  const waiting = fillBacklog(path)
  const error = await t.throwsAsync(connect(path, { handshakeTimeout: 20 }), { code: 'ERR_PASSFD_CONNECT_TIMEOUT' })
  t.is((error.cause as NodeJS.ErrnoException).code, 'EAGAIN')
  for (const handshakeTimeout of [0, 10_000]) {
    const controller = new AbortController()
    let refused = 0
    await patched(
      'connect',
      countingEagain(() => refused++),
      async () => {
        const connecting = connect(path, { handshakeTimeout, signal: controller.signal })
        await until(() => refused >= 2, 'attempts to connect')
        controller.abort('enough')
        const aborted = await t.throwsAsync(connecting, { name: 'AbortError', code: 'ABORT_ERR' })
        t.is(aborted.cause, 'enough')
      }
    )
  }
  for (const fd of waiting) native.close(fd)
  listener.close()
})

/** Connections that nobody accepts, until there is no room for more. */
function fillBacklog(path: string): number[] {
  const waiting: number[] = []
  for (;;) {
    const fd = native.socket(1)
    const result = native.connect(fd, Buffer.from(path))
    if (result === EAGAIN) {
      native.close(fd)
      return waiting
    }
    waiting.push(fd)
  }
}

function countingEagain(onEagain: () => void) {
  return <Call extends (...args: any[]) => number>(original: Call): Call =>
    ((...args) => {
      const result = original(...args)
      if (result === EAGAIN) onEagain()
      return result
    }) as Call
}
