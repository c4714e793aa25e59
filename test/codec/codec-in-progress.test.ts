import type { PassfdError } from '../../src/base/errors.ts'
import { encodePlain } from '../../src/codec/plain.ts'
import { codeOf, decode, encode, MODES, newCodec } from '../helpers/bodies.ts'
import { closeAll, connected, nextMessage } from '../helpers/channels.ts'
import { encodeBy } from '../helpers/codec.ts'
import { test } from '../helpers/test.ts'

test('an encode inside an encode is refused, and the outer one is not disturbed', t => {
  for (const mode of MODES) {
    const sender = newCodec(true)
    const other = newCodec(true)
    const receiver = newCodec(true)
    for (const inner of [
      () => encodeBy(sender, { b: 1 }, true),
      () => encodeBy(other, [1], false),
      () => encodePlain({})
    ]) {
      let seen: unknown
      const value = (rethrow: boolean) => ({
        before: { x: 1 },
        get reentrant() {
          try {
            inner()
          } catch (error) {
            seen = error
            if (rethrow) throw error
          }
          return 'survived'
        },
        after: [{ y: 2 }]
      })
      t.is(
        codeOf(() => encode(sender, mode, value(true))),
        'ERR_PASSFD_ENCODE'
      )
      t.regex((seen as Error).message, /a getter or toJSON\(\) inside it sends a message itself/)
      seen = undefined
      const body = encode(sender, mode, value(false))
      t.is((seen as PassfdError).code, 'ERR_PASSFD_ENCODE')
      t.deepEqual(decode(receiver, body), { before: { x: 1 }, reentrant: 'survived', after: [{ y: 2 }] })
    }
  }
})

test('a send from a getter is refused, and the message with it arrives if the getter goes on', async t => {
  const [left, right] = await connected()
  const message = nextMessage(right)
  let refused: unknown
  void left.send({
    get answer() {
      try {
        void left.send('inside')
      } catch (error) {
        refused = error
      }
      return 42
    }
  })
  t.is((refused as PassfdError).code, 'ERR_PASSFD_ENCODE')
  t.deepEqual((await message).value, { answer: 42 })
  await closeAll(left, right)
})
