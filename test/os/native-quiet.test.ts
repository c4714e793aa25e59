/** `quiet`: for how long a TCP connection has carried no byte. */
import { setTimeout as delay } from 'node:timers/promises'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { accepted, destroyed } from '../helpers/sockets.ts'
import { test, until } from '../helpers/test.ts'

/** What the kernel's ticks may add or take away, ms. */
const TICKS = 20

test('it counts from the handshake, and from the last byte in each direction', async t => {
  const { here, there } = await accepted()
  const copy = Descriptor.from(here)
  const fd = copy.borrow()
  await delay(100)
  t.true(native.quiet(fd) >= 100 - TICKS)
  there.write('in')
  await until(() => native.quiet(fd) < 100 - TICKS, 'the byte has come')
  await delay(100)
  t.true(native.quiet(fd) >= 100 - TICKS)
  here.write('out')
  await until(() => native.quiet(fd) < 100 - TICKS, 'the byte has left')
  copy.close()
  await destroyed(here, there)
})

test('other sockets, other files and closed numbers do not know it', async t => {
  const [left, right] = Descriptor.socketpair()
  t.true([-95, -22].includes(native.quiet(left.borrow())), 'EOPNOTSUPP')
  const file = Descriptor.openSync('/dev/null')
  t.is(native.quiet(file.borrow()), -88)
  const number = file.borrow()
  file.close()
  t.is(native.quiet(number), -9)
  left.close()
  right.close()
})
