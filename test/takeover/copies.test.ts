/** Copies for a message: all of them or none. */
import { Descriptor } from '../../src/index.ts'
import { copying } from '../../src/takeover/copies.ts'
import { openDescriptors, test } from '../helpers/test.ts'

test('all copies are the caller’s; if one can’t be made, or what is made of them fails, none is left open', t => {
  const { readable, writable } = Descriptor.pipe()
  const made = copying(copy => [copy(readable), copy(writable)])
  t.true(made.every(copy => !copy.closed && copy !== readable && copy !== writable))
  for (const copy of made) copy.close()

  readable.borrow() // a copy of it has a number of its own
  const before = openDescriptors().size
  let first: Descriptor | undefined
  const unmade = copying.bind(undefined, copy => {
    first = copy(readable)
    throw new Error('no')
  })
  t.throws(unmade, { message: 'no' })
  t.true(first!.closed)
  writable.close()
  t.throws(() => copying(copy => [copy(readable), copy(writable)]), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  t.is(openDescriptors().size, before - 1)
  readable.close()
})
