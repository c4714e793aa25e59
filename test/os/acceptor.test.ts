import { once } from 'node:events'
import { connect } from 'node:net'
import { Descriptor } from '../../src/index.ts'
import { acceptUpTo, acceptWaiting } from '../../src/os/acceptor.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const EMFILE = -24
const EINVAL = -22

/** A listener with so many in its queue. */
async function withClients(count: number, body: (fd: number) => Promise<void> | void): Promise<void> {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const sockets = Array.from({ length: count }, () => connect(path))
  await Promise.all(sockets.map(socket => once(socket, 'connect')))
  await body(listener.borrow())
  for (const socket of sockets) socket.on('error', () => {}).destroy()
  await Promise.all(sockets.map(socket => socket.closed || once(socket, 'close')))
  listener.close()
}

test('no more than wanted; the rest goes on waiting', t =>
  withClients(300, fd => {
    const accepted: number[] = []
    const take = (one: number): void => void accepted.push(one)
    t.is(acceptUpTo(fd, 270, take), 0) // more than one call gives
    t.is(accepted.length, 270)
    t.is(native.queued(fd), 30)
    t.is(acceptUpTo(fd, 100, take), 0)
    t.is(accepted.length, 300)
    t.is(acceptUpTo(fd, 1, take), 0)
    t.is(new Set(accepted).size, 300)
    for (const one of accepted) t.true(native.close(one) >= 0)
  }))

test('what keeps it from accepting more is returned; those before it are the taker’s', t =>
  withClients(300, async fd => {
    const accepted: number[] = []
    let calls = 0
    await patched(
      'acceptMany',
      original =>
        (...given) =>
          ++calls > 1 ? EMFILE : original(...given),
      () =>
        void t.is(
          acceptUpTo(fd, 300, one => void accepted.push(one)),
          EMFILE
        )
    )
    t.is(accepted.length, 256)
    for (const one of accepted) native.close(one)
    await patched(
      'acceptMany',
      () => () => EINVAL,
      () => void t.true(acceptWaiting(fd, () => t.fail())) // it was shut down
    )
    await patched(
      'acceptMany',
      () => () => EMFILE,
      () => void t.false(acceptWaiting(fd, () => t.fail()))
    )
  }))
