/** Entries of a store. */
import { Descriptor } from '../../src/index.ts'
import { Entry } from '../../src/store/entry.ts'
import { test } from '../helpers/test.ts'

test('an entry shows its kinds when its descriptors are not the store’s any more, as while they are given to a successor', t => {
  const descriptors = [...Descriptor.socketpair(), Descriptor.memfd()]
  const facts = {
    entry: 1,
    name: 'x',
    owner: 0,
    descriptors,
    value: undefined,
    uid: 0,
    pid: 1,
    since: 0,
    deadline: undefined,
    poll: true
  }
  const entry = new Entry(facts)
  for (const descriptor of descriptors) descriptor.close()
  t.deepEqual(entry.shown().kinds, ['unix-stream', 'unix-stream', 'memfd'])
})
