import { receiveDatagram } from '../../src/datagram/receive.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { abstractName } from '../helpers/datagrams.ts'
import { test } from '../helpers/test.ts'

const EAGAIN = -11
const EBADF = -9

function bound(): [fd: number, send: (text: string) => void] {
  const fd = native.socket(2)
  const name = Buffer.from(`\0${abstractName().abstract}`)
  native.bind(fd, name, -1)
  const none = new Int32Array(0)
  return [fd, text => void native.sendMessage(fd, Buffer.from(text), 0, text.length, none, 0, 0, name)]
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

test('another reader was faster: what comes instead is shorter, or said to have been cut', async t => {
  const [fd, send] = bound()
  for (const text of ['abc', 'abc']) send(text)
  for (const [pending, text, cut] of [
    [5, 'abc', false],
    [2, 'ab', true]
  ] as const)
    await patched(
      'pending',
      () => () => pending,
      () => {
        const received = receiveDatagram(fd, 1000) as { data: Buffer; cut: boolean }
        t.is(received.data.toString(), text)
        t.is(received.cut, cut)
      }
    )
  native.close(fd)
})
