/** The shim on pipes and terminals: what never waits, and what changes no flag. */
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { Descriptor } from '../../src/index.ts'
import { Watcher } from '../../src/os/loop.ts'
import { native, READABLE, WRITABLE } from '../../src/os/native.ts'
import { isCloseOnExec, isNonBlocking, watchedInode } from '../helpers/facts.ts'
import { temporaryPath } from '../helpers/path.ts'
import { openTerminal } from '../helpers/terminal.ts'
import { test, until } from '../helpers/test.ts'

const EBADF = -9
const EAGAIN = -11
const ENOTTY = -25
const bytes = Buffer.alloc(200_000, 'x')

function closeEach(...descriptors: Descriptor[]): void {
  for (const descriptor of descriptors) descriptor.close()
}

test('readNow and writeNow never wait on a blocking pipe', t => {
  const { readable, writable } = Descriptor.pipe()
  const [from, to] = [readable.borrow(), writable.borrow()]
  t.is(native.readNow(from, bytes, 0, 10), EAGAIN)
  t.is(native.writeNow(to, Buffer.from('0123456789'), 2, 5), 3)
  const area = Buffer.alloc(8, '.')
  t.is(native.readNow(from, area, 1, 8), 3)
  t.is(area.toString(), '.234....')
  let written = 0
  for (let length: number; (length = native.writeNow(to, bytes, 0, bytes.length)) !== EAGAIN; ) written += length
  t.is(written, 65536)
  t.is(native.pending(from), 65536)
  t.false(isNonBlocking(to) || isNonBlocking(from))
  writable.close()
  while (native.readNow(from, bytes, 0, bytes.length) > 0);
  t.is(native.readNow(from, bytes, 0, 10), 0)
  readable.close()
  t.is(native.readNow(from, bytes, 0, 10), EBADF)
})

test('a watcher that only tells leaves O_NONBLOCK of pipes and terminals as it is, and tells all the same', async t => {
  const { readable, writable } = Descriptor.pipe()
  const { master, slave } = openTerminal()
  for (const [from, to] of [
    [readable, writable],
    [slave, master]
  ] as const) {
    const events: string[] = []
    const name = (event: number) => (event === READABLE ? 'readable' : event === WRITABLE ? 'writable' : String(event))
    const reading = new Watcher(from.borrow(), event => {
      events.push(name(event))
      reading.want(false, false)
    })
    const writing = new Watcher(to.borrow(), event => {
      events.push(name(event))
      writing.want(false, false)
    })
    writing.want(false, true)
    await until(() => events.length === 1, 'writable')
    fs.writeSync(to.borrow(), 'a line\n')
    await until(() => events.length === 2, 'readable')
    t.deepEqual(events, ['writable', 'readable'])
    reading.want(true, false)
    await until(() => events.length === 3, 'readable again: nobody has read')
    for (const side of [from, to]) t.false(isNonBlocking(side.borrow()), from.kind)
    const { ino } = fs.fstatSync(from.borrow())
    t.true(watchedInode(ino))
    reading.end()
    writing.end()
    t.false(watchedInode(ino))
  }
  closeEach(readable, writable, master, slave)
})

test('a watcher tells that the other end is gone: nothing to come, or an error', async t => {
  const first = Descriptor.pipe()
  const events: number[] = []
  const reading = new Watcher(first.readable.borrow(), event => {
    events.push(event)
    reading.want(false, false)
  })
  first.writable.close()
  await until(() => events.length > 0, 'the end')
  t.deepEqual(events, [READABLE])
  reading.end()
  const second = Descriptor.pipe()
  while (native.writeNow(second.writable.borrow(), bytes, 0, bytes.length) > 0);
  const writing = new Watcher(second.writable.borrow(), event => void events.push(event))
  writing.want(false, true)
  second.readable.close()
  await until(() => events.length > 1, 'the error')
  t.deepEqual(events.slice(1), [8], 'FAILED, once')
  writing.end()
  closeEach(first.readable, second.writable)
})

test('what can be watched is watched; a file is EPERM, and nothing is left', t => {
  const descriptor = Descriptor.openSync('/etc/hostname')
  t.is(native.watch(descriptor.borrow(), false), -1)
  t.is(native.watch(9999, false), EBADF)
  descriptor.close()
})

test('statusFlags and nonblocking: for all who have the description', t => {
  const { readable, writable } = Descriptor.pipe()
  const copy = readable.dup()
  const before = native.statusFlags(readable.borrow())
  t.is(before & 3, fs.constants.O_RDONLY)
  t.is(native.statusFlags(writable.borrow()) & 3, fs.constants.O_WRONLY)
  t.is(native.nonblocking(readable.borrow(), true), 0)
  t.is(native.statusFlags(copy.borrow()), before | fs.constants.O_NONBLOCK)
  t.true(isNonBlocking(copy.borrow()))
  t.is(native.nonblocking(copy.borrow(), false), 0)
  t.is(native.statusFlags(readable.borrow()), before)
  closeEach(readable, writable, copy)
  t.is(native.statusFlags(9999), EBADF)
  t.is(native.nonblocking(9999, true), EBADF)
})

test('terminalSide tells a master from a slave from neither', t => {
  const { master, slave } = openTerminal()
  const { readable, writable } = Descriptor.pipe()
  t.is(native.terminalSide(master.borrow()), 1)
  t.is(native.terminalSide(slave.borrow()), 0)
  t.is(native.terminalSide(readable.borrow()), ENOTTY)
  t.is(native.terminalSide(9999), EBADF)
  closeEach(master, slave, readable, writable)
})

test('reopen gives a non-blocking description of the same terminal or named pipe, and none where there is no need', t => {
  const { master, slave } = openTerminal()
  const path = temporaryPath('fifo')
  execFileSync('mkfifo', [path])
  const pipe = Descriptor.openSync(path, fs.constants.O_RDWR)
  for (const descriptor of [slave, pipe]) {
    const held = native.held()
    const fd = native.reopen(descriptor.borrow())
    t.true(fd > 2)
    t.is(native.held(), held + 1)
    t.true(isNonBlocking(fd) && isCloseOnExec(fd))
    t.false(isNonBlocking(descriptor.borrow()))
    t.is(native.statusFlags(fd) & 3, native.statusFlags(descriptor.borrow()) & 3)
    t.is(fs.fstatSync(fd).ino, fs.fstatSync(descriptor.borrow()).ino)
    t.is(native.readNow(fd, bytes, 0, 1), EAGAIN)
    t.is(native.writeNow(fd, bytes, 0, 3), 3)
    native.close(fd)
  }
  const anonymous = Descriptor.pipe()
  const fd = native.reopen(anonymous.readable.borrow())
  t.true(fd === 0 || isNonBlocking(fd), 'Linux before 6.4 needs one')
  if (fd > 0) native.close(fd)
  t.is(native.reopen(9999), EBADF)
  closeEach(master, slave, pipe, anonymous.readable, anonymous.writable)
})

test('writeNow to a blocking terminal is refused, not tried', t => {
  const { master, slave } = openTerminal()
  t.is(native.writeNow(slave.borrow(), bytes, 0, 1), -95)
  t.is(native.readNow(slave.borrow(), bytes, 0, 1), EAGAIN)
  closeEach(master, slave)
})
