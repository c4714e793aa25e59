/** What `access` and `flags` report of an open file, beside what read(2) and write(2) then do. */
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import type { Access, OpenFlags } from '../../src/index.ts'
import { connect, Descriptor, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { fromPython } from '../helpers/from-python.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const { O_APPEND, O_DSYNC, O_NONBLOCK, O_RDWR, O_SYNC, O_WRONLY } = fs.constants
const O_PATH = 0x200000
/** The mode for ioctl(2) only (open(2)). */
const IOCTL_ONLY = 3
const NONE: OpenFlags = { append: false, nonblocking: false, sync: false, direct: false, path: false }

/** The error's code, or 'ok'. */
function outcome(work: () => unknown): string {
  try {
    work()
    return 'ok'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code!
  }
}

test('access is what read(2) and write(2) do, for every way to open a file', t => {
  const path = temporaryPath()
  fs.writeFileSync(path, 'text')
  const rows: [flags: string | number, access: Access, read: string, write: string][] = [
    ['r', 'read', 'ok', 'EBADF'],
    ['w', 'write', 'EBADF', 'ok'],
    ['a', 'write', 'EBADF', 'ok'],
    ['r+', 'read-write', 'ok', 'ok'],
    ['w+', 'read-write', 'ok', 'ok'],
    ['a+', 'read-write', 'ok', 'ok'],
    [O_PATH, 'none', 'EBADF', 'EBADF'],
    [O_PATH | O_RDWR, 'none', 'EBADF', 'EBADF'],
    [IOCTL_ONLY, 'none', 'EBADF', 'EBADF']
  ]
  for (const [flags, access, read, write] of rows) {
    const descriptor = Descriptor.openSync(path, flags)
    t.is(descriptor.access, access, `${flags}`)
    t.is(
      outcome(() => fs.readSync(descriptor.borrow(), Buffer.alloc(1))),
      read,
      `${flags}: read`
    )
    t.is(
      outcome(() => fs.writeSync(descriptor.borrow(), 'x')),
      write,
      `${flags}: write`
    )
    descriptor.close()
  }
})

test('access of what is no file: the end of a pipe, sockets, memory, a directory, a process', async t => {
  const { readable, writable } = Descriptor.pipe()
  const [left, right] = Descriptor.socketpair()
  const sealed = Descriptor.memfd('sealed', { size: 1, seals: ['write'] })
  const rows: [Descriptor, Access][] = [
    [readable, 'read'],
    [writable, 'write'],
    [left, 'read-write'],
    [right, 'read-write'],
    [await Descriptor.bind({ host: '127.0.0.1', port: 0 }), 'read-write'],
    [Descriptor.memfd(), 'read-write'],
    [sealed, 'read-write'],
    [Descriptor.openSync(tmpdir()), 'read'],
    [Descriptor.pidfd(process.pid), 'read-write']
  ]
  t.is(
    outcome(() => fs.writeSync(sealed.borrow(), 'x')),
    'EPERM',
    'a seal is not part of the access mode'
  )
  for (const [descriptor, access] of rows) {
    t.is(descriptor.access, access, descriptor.kind)
    // bind() makes its sockets non-blocking
    t.deepEqual(descriptor.flags, { ...NONE, nonblocking: descriptor.kind === 'tcp-listener' }, descriptor.kind)
    descriptor.close()
  }
})

test('flags has a name for each file status flag', async t => {
  const path = temporaryPath()
  fs.writeFileSync(path, '')
  const rows: [flags: number, expected: Partial<OpenFlags>][] = [
    [O_WRONLY, {}],
    [O_WRONLY | O_APPEND, { append: true }],
    [O_WRONLY | O_NONBLOCK, { nonblocking: true }],
    [O_WRONLY | O_SYNC, { sync: true }],
    [O_WRONLY | O_DSYNC, { sync: true }],
    [O_PATH, { path: true }],
    [O_WRONLY | O_APPEND | O_NONBLOCK | O_DSYNC, { append: true, nonblocking: true, sync: true }]
  ]
  for (const [flags, expected] of rows) {
    const descriptor = Descriptor.openSync(path, flags)
    t.deepEqual(descriptor.flags, { ...NONE, ...expected }, `${flags}`)
    descriptor.close()
  }
  // open(2) takes O_DIRECT on few file systems, pipe2(2) on all
  const python = await fromPython(['packet-pipe'])
  t.deepEqual(python.descriptors[0]!.flags, { ...NONE, direct: true })
  python.descriptors[0]!.close()
  await python.end()
})

test('a receiver sees how the sender has opened the file', async t => {
  const path = temporaryPath()
  const [here, other] = pair()
  const there = await connect<{ log: Descriptor }>(other)
  const seen: [Access, OpenFlags][] = []
  there.serve(({ value: { log } }) => void seen.push([log.access, log.flags]))
  await here.request({ log: Descriptor.openSync(path, 'a') })
  await here.request({ log: Descriptor.openSync(path, 'r') })
  t.deepEqual(seen, [
    ['write', { ...NONE, append: true }],
    ['read', NONE]
  ])
  await here.close()
})

test('a change by another owner of the open file shows at the next look', t => {
  const { readable, writable } = Descriptor.pipe()
  const other = readable.dup()
  const before = readable.flags
  native.nonblocking(other.borrow(), true)
  t.false(before.nonblocking)
  t.true(readable.flags.nonblocking)
  t.false(writable.flags.nonblocking, 'the other end is another open file')
  for (const descriptor of [readable, writable, other]) descriptor.close()
})

test('access and flags neither use a descriptor up nor claim it, and throw what took it', async t => {
  const descriptor = Descriptor.openSync('/dev/null', 'w')
  t.is(descriptor.access, 'write')
  t.false(descriptor.closed)
  descriptor.close()
  for (const look of [() => descriptor.access, () => descriptor.flags])
    t.throws(look, { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  const moved = Descriptor.openSync('/dev/null', 'w')
  const [here, other] = pair()
  const there = await connect<Descriptor>(other)
  let received: Descriptor | undefined
  there.serve(({ value }) => {
    received = value
    return value.access
  })
  t.is(await here.request(moved), 'write')
  t.throws(() => moved.access, { code: 'ERR_PASSFD_DESCRIPTOR_MOVED' })
  t.throws(() => received!.access, { code: 'ERR_PASSFD_DESCRIPTOR_UNCLAIMED' })
  const behind = Descriptor.openSync('/dev/null')
  fs.closeSync(behind.borrow())
  t.throws(() => behind.access, { code: 'EBADF', message: /fcntl/ })
  behind.detach()
  await here.close()
})

test('a device for ioctl(2) only is refused for reading and for writing at once', t => {
  const device = Descriptor.openSync('/dev/null', IOCTL_ONLY)
  for (const convert of [() => device.toReadable(), () => device.toWritable()])
    t.throws(convert, {
      code: 'ERR_PASSFD_DESCRIPTOR_DIRECTION',
      message: / needs .* open for (reading|writing); this device is open for neither\./
    })
  device.close()
})
