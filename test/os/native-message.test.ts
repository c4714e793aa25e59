import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import {
  CREDENTIALS,
  CUT,
  MESSAGE_FIRST,
  MESSAGE_GID,
  MESSAGE_NAME,
  MESSAGE_PID,
  MESSAGE_UID,
  native,
  RESULT_BYTES,
  RESULT_DESCRIPTORS,
  RESULT_FLAGS
} from '../../src/os/native.ts'
import { identity, isCloseOnExec } from '../helpers/facts.ts'
import { socketPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const EAGAIN = -11
const EINVAL = -22
const EMSGSIZE = -90
const ENOTCONN = -107
const ECONNREFUSED = -111
const ENOENT = -2

const DATAGRAM = 2
const NONE = new Int32Array(0)
const results = new Int32Array(MESSAGE_FIRST + 2 * 253)
const name = Buffer.alloc(108)

/** A bound socket and the bytes of its name. */
function bound(bytes = Buffer.from(`\0passfd-test-${randomBytes(8).toString('hex')}`)): [fd: number, bytes: Buffer] {
  const fd = native.socket(DATAGRAM)
  native.bind(fd, bytes, 0o600)
  return [fd, bytes]
}

function receive(fd: number, room = 1000) {
  const bytes = Buffer.alloc(room)
  const length = native.receiveMessage(fd, bytes, 0, room, results, name, false)
  return {
    length,
    bytes: bytes.subarray(0, Math.max(0, length)),
    fds: [...results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + results[RESULT_DESCRIPTORS]!)],
    name: Buffer.from(name.subarray(0, results[MESSAGE_NAME])),
    flags: results[RESULT_FLAGS]!
  }
}

function send(fd: number, bytes: Uint8Array, to: Uint8Array | null, fds = NONE): number {
  return native.sendMessage(fd, bytes, 0, bytes.length, fds, 0, fds.length, to)
}

test('a datagram comes with its bytes, its descriptors and its sender, each its own', t => {
  const [receiver, address] = bound()
  const [sender, from] = bound()
  const file = fs.openSync('/dev/null', 'r')
  t.is(native.pending(receiver), 0)
  t.is(send(sender, Buffer.from('one'), address, Int32Array.of(file, file)), 3)
  t.is(send(sender, Buffer.from('three'), address), 5)
  t.is(native.pending(receiver), 3, 'of the first one')
  const first = receive(receiver)
  t.like(first, { length: 3, flags: 0 })
  t.is(first.bytes.toString(), 'one')
  t.deepEqual(first.name, from)
  t.is(first.fds.length, 2)
  for (const fd of first.fds) {
    t.is(identity(fd), identity(file))
    t.true(isCloseOnExec(fd))
    t.is(native.close(fd), 0, 'it is held')
  }
  t.like(receive(receiver), { length: 5, fds: [] })
  t.is(receive(receiver).length, EAGAIN)
  fs.closeSync(file)
  for (const fd of [receiver, sender]) native.close(fd)
})

test('trap 11: an empty datagram is one, and may bring descriptors', t => {
  const [receiver, address] = bound()
  const sender = native.socket(DATAGRAM)
  t.is(send(sender, Buffer.alloc(0), address), 0)
  t.is(send(sender, Buffer.alloc(0), address, Int32Array.of(sender)), 0)
  t.is(native.pending(receiver), 0)
  t.like(receive(receiver), { length: 0, fds: [], flags: 0 })
  const { length, fds, name: from } = receive(receiver, 0)
  t.is(length, 0)
  t.is(fds.length, 1)
  t.is(from.length, 0, 'the sender has no name')
  t.is(receive(receiver).length, EAGAIN)
  for (const fd of [receiver, sender, ...fds]) native.close(fd)
})

test('what does not fit is said to be cut off, and its descriptors are there all the same', t => {
  const [receiver, address] = bound()
  const sender = native.socket(DATAGRAM)
  const room = Buffer.from('12345')
  for (const [size, flags] of [
    [4, 0],
    [5, 0],
    [6, CUT]
  ] as const) {
    t.is(send(sender, Buffer.alloc(size, 'x'), address, Int32Array.of(sender)), size)
    t.is(native.receiveMessage(receiver, room, 0, 5, results, name, false), Math.min(size, 5))
    t.is(results[RESULT_BYTES], size)
    t.is(results[RESULT_FLAGS], flags, `${size} bytes in 5`)
    t.is(native.close(results[MESSAGE_FIRST]!), 0)
  }
  for (const fd of [receiver, sender]) native.close(fd)
})

test('credentials come with each datagram once they are asked for', t => {
  const [receiver, address] = bound()
  const sender = native.socket(DATAGRAM)
  send(sender, Buffer.from('before'), address)
  t.is(native.passCredentials(receiver, true), 0)
  t.is(receive(receiver).flags, CREDENTIALS)
  t.is(results[MESSAGE_PID], 0, 'the kernel did not note who it was')
  send(sender, Buffer.from('after'), address)
  t.is(receive(receiver).flags, CREDENTIALS)
  t.is(results[MESSAGE_PID], process.pid)
  t.is(results[MESSAGE_UID], process.getuid!())
  t.is(results[MESSAGE_GID], process.getgid!())
  native.passCredentials(receiver, false)
  send(sender, Buffer.from('no more'), address)
  t.is(receive(receiver).flags, 0)
  for (const fd of [receiver, sender]) native.close(fd)
})

test('trap 06: credentials do not crowd the descriptors out', t => {
  const [receiver, address] = bound()
  const sender = native.socket(DATAGRAM)
  native.passCredentials(receiver, true)
  for (const count of [1, 2, 3, 252, 253]) {
    send(sender, Buffer.from('x'), address, new Int32Array(count).fill(sender))
    const { fds, flags } = receive(receiver)
    t.is(fds.length, count)
    t.is(flags, CREDENTIALS)
    for (const fd of fds) native.close(fd)
  }
  t.is(send(sender, Buffer.from('x'), address, new Int32Array(254).fill(sender)), EINVAL)
  for (const fd of [receiver, sender]) native.close(fd)
})

test('a full receiver is EAGAIN, and no descriptor has left', t => {
  const [receiver, address] = bound()
  const sender = native.socket(DATAGRAM)
  let sent = 0
  while (send(sender, Buffer.from(`${sent}`), address, Int32Array.of(sender)) >= 0) sent++
  t.true(sent > 0 && sent < 1000)
  t.is(send(sender, Buffer.from('x'), address, Int32Array.of(sender)), EAGAIN)
  for (let i = 0; i < sent; i++) {
    const { bytes, fds } = receive(receiver)
    t.is(bytes.toString(), `${i}`)
    for (const fd of fds) native.close(fd)
  }
  t.is(receive(receiver).length, EAGAIN)
  for (const fd of [receiver, sender]) native.close(fd)
})

test('what can not be sent has the reason as its number', t => {
  const [receiver, address] = bound()
  const sender = native.socket(DATAGRAM)
  t.is(send(sender, Buffer.from('x'), null), ENOTCONN)
  t.is(send(sender, Buffer.from('x'), Buffer.from(socketPath())), ENOENT)
  t.is(send(sender, Buffer.alloc(16_000_000), address), EMSGSIZE)
  t.is(native.connect(sender, address), 0)
  t.is(send(sender, Buffer.from('x'), null), 1)
  t.like(receive(receiver), { length: 1 })
  native.close(receiver)
  t.is(send(sender, Buffer.from('x'), null), ECONNREFUSED)
  t.is(send(sender, Buffer.from('x'), null), ENOTCONN, 'the kernel has forgotten it')
  native.close(sender)
})

test('names: of a path, abstract to the byte, of a peer, and none', t => {
  const path = Buffer.from(socketPath())
  const [file] = bound(path)
  const odd = Buffer.concat([Buffer.from('\0passfd-\xff\0\xfe', 'latin1'), randomBytes(8)])
  const [abstract] = bound(odd)
  const unnamed = native.socket(DATAGRAM)
  const read = (fd: number, peer: boolean) => {
    const length = native.name(fd, peer, name)
    return length < 0 ? length : name.subarray(0, length).toString('latin1')
  }
  t.is(read(file, false), path.toString('latin1'))
  t.is(read(abstract, false), odd.toString('latin1'))
  t.is(read(unnamed, false), '')
  t.is(read(unnamed, true), ENOTCONN)
  native.connect(unnamed, odd)
  t.is(read(unnamed, true), odd.toString('latin1'))
  for (const fd of [file, abstract, unnamed]) native.close(fd)
})

test('arrays that are too small are refused', t => {
  const [receiver, address] = bound()
  send(receiver, Buffer.from('x'), address)
  const bytes = Buffer.alloc(10)
  t.is(native.receiveMessage(receiver, bytes, 0, 10, new Int32Array(MESSAGE_FIRST + 505), name, false), EINVAL)
  t.is(native.receiveMessage(receiver, bytes, 0, 10, results, Buffer.alloc(107), false), EINVAL)
  t.is(native.receiveMessage(receiver, bytes, 0, 11, results, name, false), EINVAL)
  t.is(native.receiveMessage(receiver, bytes, 0, 10, results, name, false), 1, 'nothing was read by those')
  native.close(receiver)
})
