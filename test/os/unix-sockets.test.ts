import { statSync } from 'node:fs'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { type UnixSocket, unixSockets } from '../../src/os/unix-sockets.ts'
import { socketPath } from '../helpers/path.ts'
import { openDescriptors, test } from '../helpers/test.ts'

/** What the kernel says of the socket behind a number of this process. */
function ofNumber(fd: number): UnixSocket {
  const [, inode] = /^socket:\[(\d+)\]$/.exec(openDescriptors().get(fd)!)!
  return unixSockets().find(one => one.inode === Number(inode))!
}

test('the two ends of a pair name each other, and bytes that wait are counted', t => {
  for (const type of ['stream', 'dgram', 'seqpacket'] as const) {
    const [left, right] = Descriptor.socketpair({ type })
    t.is(native.send(left.borrow(), Buffer.from('12345'), 0, 5, new Int32Array(0), 0, 0), 5)
    const [one, other] = [ofNumber(left.borrow()), ofNumber(right.borrow())]
    t.is(one.peer, other.inode)
    t.is(other.peer, one.inode)
    t.like(other, { type, listens: false, received: 5, name: undefined, file: undefined, waiting: [] })
    t.true(other.uid === undefined || other.uid === process.getuid!())
    for (const each of [left, right]) each.close()
  }
})

test('a listener has its file, its backlog and the sockets that wait', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path, backlog: 7 })
  const client = native.socket(1)
  t.is(native.connect(client, Buffer.from(path)), 0)
  const waiting = ofNumber(client)
  const { ino } = statSync(path)
  t.like(ofNumber(listener.borrow()), {
    type: 'stream',
    listens: true,
    name: path,
    file: ino % 2 ** 32,
    waiting: [waiting.inode],
    received: 1,
    sent: 7
  })
  const accepted = native.accept(listener.borrow())
  t.like(ofNumber(accepted), { listens: false, name: path, peer: waiting.inode })
  t.is(ofNumber(client).peer, ofNumber(accepted).inode)
  t.deepEqual(ofNumber(listener.borrow()).waiting, [])
  for (const each of [client, accepted]) native.close(each)
  listener.close()
})

test('an abstract name begins with NUL', async t => {
  const fd = native.socket(1)
  const name = Buffer.from(`\0passfd-${process.pid}\0x`)
  t.true(native.bind(fd, name, -1) >= 0)
  t.is(ofNumber(fd).name, name.toString())
  native.close(fd)
})
