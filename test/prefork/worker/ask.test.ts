/** Whom a program's process asks, and whom it does not believe. */
import { moveOutShared } from '../../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../../src/index.ts'
import { MESSAGE_FIRST, RESULT_DESCRIPTORS, RESULT_FLAGS } from '../../../src/os/native.ts'
import { RECEIVED } from '../../../src/os/raw-socket.ts'
import { ask } from '../../../src/prefork/worker/ask.ts'
import { listenPackets } from '../../../src/stream/index.ts'
import { patched } from '../../helpers/channels.ts'
import { test } from '../../helpers/test.ts'

const join = { type: 'join', version: 1, newest: 1 } as never
const QUESTION = { token: 'secret', wanted: { port: 0 }, nth: 1, join }

test('it asks nobody of another user, who may have taken the name of a supervisor that has ended', async t => {
  if (process.geteuid!() !== 0) {
    t.pass('only root can become another user')
    return
  }
  const name = `passfd-test-${process.pid}`
  process.seteuid!(65534)
  const server = await listenPackets({ abstract: name }).finally(() => process.seteuid!(0))
  const error = t.throws(() => ask(name, QUESTION))
  t.is((error as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  await server.close()
})

test('the descriptors of an answer that it does not understand are closed', async t => {
  const name = `passfd-test-answers-${process.pid}`
  const server = await listenPackets({ abstract: name })
  const granted = { type: 'granted', id: 1, name: 'x', address: { port: 1 }, own: true, pid: 1 }
  const answers: [text: string, count: number, right?: number][] = [
    ['', 1],
    ['{', 2],
    ['null', 1],
    ['3', 3],
    ['[]', 1],
    ['{"type":"left"}', 1, 0],
    ['{"type":"not the worker"}', 3, 0],
    ['{"type":"failed"}', 1, 0],
    [JSON.stringify(granted), 0, 1],
    [JSON.stringify(granted), 2, 1],
    [JSON.stringify({ ...granted, welcome: {} }), 1, 3],
    [JSON.stringify({ ...granted, welcome: {} }), 4, 3]
  ]
  const given = { text: '', count: 0 }
  // ask() blocks the event loop, so nobody in this process can answer
  const answering = () => (_: number, packet: Uint8Array) => {
    RECEIVED[RESULT_FLAGS] = 0
    RECEIVED[RESULT_DESCRIPTORS] = given.count
    for (let at = 0; at < given.count; at++)
      RECEIVED[MESSAGE_FIRST + at] = moveOutShared(Descriptor.openSync('/dev/null'), 'the test')
    return Buffer.from(packet.buffer, packet.byteOffset).write(given.text)
  }
  await patched('receiveMessage', answering as never, () => {
    for (const [text, count, right] of answers) {
      Object.assign(given, { text, count })
      t.throws(() => ask(name, QUESTION), undefined, `${text} with ${count}`)
      if (right === undefined) continue
      given.count = right
      const { descriptors } = ask(name, QUESTION)
      t.is(descriptors.length, right)
      for (const one of descriptors) one.close()
    }
  })
  await server.close()
})
