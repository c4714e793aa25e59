import { randomFillSync } from 'node:crypto'
import { Codec } from '../src/codec.ts'
import { copyShort, SHORT, short } from '../src/short.ts'
import { test } from './helpers/test.ts'

test('the same bytes are copied from every place and of every length', t => {
  const whole = randomFillSync(Buffer.allocUnsafeSlow(512))
  const odd = Buffer.from(whole.buffer, 1, 510)
  for (const bytes of [whole, odd])
    for (let start = 0; start < 9; start++)
      for (let length = 0; length <= SHORT; length++) {
        copyShort(bytes, start, start + length)
        t.deepEqual(short.subarray(0, length), bytes.subarray(start, start + length))
      }
})

test('the end of a buffer whose length is no multiple of four is copied too', t => {
  const bytes = randomFillSync(Buffer.allocUnsafeSlow(67))
  copyShort(bytes, 64, 67)
  t.deepEqual(short.subarray(0, 3), bytes.subarray(64, 67))
})

test('what a short body held stays when the next one is decoded', t => {
  const codec = new Codec()
  codec.records = true
  const bodies = ['first', 'second'].map(name => {
    const { bytes, start, end } = codec.encode({ name, data: Buffer.from(name) }, false)
    return Buffer.from(bytes.subarray(start + 12, end))
  })
  const values = bodies.map(body => codec.decode(body, 0, body.length, true, [], false))
  t.deepEqual(values, [
    { name: 'first', data: Buffer.from('first') },
    { name: 'second', data: Buffer.from('second') }
  ])
})
