import { READ_BLOCK, readBlock } from '../../src/os/read-block.ts'
import { test } from '../helpers/test.ts'

test('a large read gets the block itself, and the next read gets another one', t => {
  const block = readBlock.memory.fill(1)
  const whole = readBlock.take(READ_BLOCK)
  t.is(whole.buffer, block.buffer)
  t.is(whole.length, READ_BLOCK)
  readBlock.memory.fill(2)
  const part = readBlock.take(READ_BLOCK / 2 + 1)
  t.is(part.length, READ_BLOCK / 2 + 1)
  readBlock.memory.fill(3)
  t.true(whole.every(byte => byte === 1))
  t.true(part.every(byte => byte === 2))
})

test('a small read is copied, so that a program keeps less than twice the bytes that it received', t => {
  const block = readBlock.memory.fill(1)
  const copies = [READ_BLOCK / 2, 10, 0].map(length => readBlock.take(length))
  t.is(readBlock.memory, block)
  block.fill(2)
  t.deepEqual(
    copies.map(({ length }) => length),
    [READ_BLOCK / 2, 10, 0]
  )
  for (const copy of copies) {
    t.not(copy.buffer, block.buffer)
    t.true(copy.every(byte => byte === 1))
  }
})
