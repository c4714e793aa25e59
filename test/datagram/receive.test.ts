import { receiveDatagram } from '../../src/datagram/receive.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { abstractName } from '../helpers/datagrams.ts'
import { times } from '../helpers/full.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { test } from '../helpers/test.ts'

const EAGAIN = -11
const EBADF = -9

/** Sends numbers, one after the other. */
const SENDER = `
import socket, sys
name, count = sys.argv[1:]
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for number in range(int(count)):
    sender.sendto(b'%d' % number, b'\\0' + name.encode())
`

function bound(): [fd: number, send: (text: string) => void, name: Buffer] {
  const fd = native.socket(2)
  const name = Buffer.from(`\0${abstractName().abstract}`)
  native.bind(fd, name, -1)
  const none = new Int32Array(0)
  return [fd, text => void native.sendMessage(fd, Buffer.from(text), 0, text.length, none, 0, 0, name), name]
}

test('datagrams one by one, each in a buffer of its size', t => {
  const [fd, send] = bound()
  for (const text of ['one', '', 'three']) send(text)
  for (const text of ['one', '', 'three']) {
    const received = receiveDatagram(fd, 1000)
    t.like(received, { size: text.length, cut: false, truncated: false, fds: [], sender: undefined })
    t.is((received as { data: Buffer }).data.toString(), text)
  }
  t.is(receiveDatagram(fd, 1000), EAGAIN)
  native.close(fd)
  t.is(receiveDatagram(fd, 1000), EBADF)
})

test('one that is longer than the limit is gone, and said to have been cut', t => {
  const [fd, send] = bound()
  for (const text of ['12345', '123456']) send(text)
  t.like(receiveDatagram(fd, 5), { size: 5, cut: false })
  t.like(receiveDatagram(fd, 5), { size: 6, cut: true })
  t.is(receiveDatagram(fd, 5), EAGAIN)
  native.close(fd)
})

test('another reader was faster: what comes instead arrives whole, however long it is', async t => {
  const [fd, send] = bound()
  for (const [other, text] of [
    [5, 'abc'],
    [2, 'abc'],
    [0, 'abc'],
    [0, 'x'.repeat(200_000)],
    [3_000_000, 'abc'], // larger than the scratch buffer
    [9_000_000, 'abc'] // what the other reader took was over the limit
  ] as const) {
    send(text)
    await patched(
      'nextSize',
      () => () => other,
      () => {
        const received = receiveDatagram(fd, 4_000_000) // a lower limit needs no size beforehand
        t.like(received, { size: text.length, cut: false })
        t.true((received as { data: Buffer }).data.equals(Buffer.from(text)))
      }
    )
  }
  native.close(fd)
})

test('one that is so long that it gets the scratch buffer itself is not overwritten', t => {
  const [receiver, send, name] = bound()
  const [sender, bytes] = [native.socket(2), Buffer.alloc(300_000, 'y')]
  t.is(native.sendBuffer(sender, 212_992), 0)
  t.is(native.sendMessage(sender, bytes, 0, bytes.length, new Int32Array(0), 0, 0, name), bytes.length)
  const received = receiveDatagram(receiver, bytes.length)
  t.like(received, { size: bytes.length, cut: false })
  for (const text of ['short', 'z'.repeat(200_000)]) {
    send(text)
    t.is((receiveDatagram(receiver, 1_000_000) as { data: Buffer }).data.toString(), text)
  }
  t.true((received as { data: Buffer }).data.equals(bytes))
  for (const one of [receiver, sender]) native.close(one)
})

test('the size is that of the whole datagram, and the numbers of the next one are its own', t => {
  const [receiver, send] = bound()
  for (const text of ['123456', '12']) send(text)
  t.like(receiveDatagram(receiver, 4), { size: 6, cut: true })
  t.like(receiveDatagram(receiver, 4), { size: 2, cut: false })
  native.close(receiver)
})

const COUNT = times(5000, 200_000)

test('none is lost that comes while the queue is found empty', async t => {
  const [fd, , name] = bound()
  const sender = start(systemPython, ['-c', SENDER, name.toString('latin1', 1), `${COUNT}`])
  t.teardown(() => sender.child.kill())
  const wrong: unknown[] = []
  const deadline = performance.now() + 60_000
  // Without a turn of the event loop, so that most calls find nothing
  for (let count = 0; count < COUNT; ) {
    const received = receiveDatagram(fd, 1000)
    if (received === EAGAIN) {
      if (performance.now() < deadline) continue
      wrong.push(`${count} of ${COUNT} have come`)
      break
    }
    if (typeof received === 'number' || received.cut || received.data.toString() !== `${count}`) wrong.push(received)
    count++
    if (wrong.length > 10) break
  }
  t.deepEqual(wrong, [])
  t.is((await sender.exit).code, 0)
  native.close(fd)
})
