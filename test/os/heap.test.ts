import { largeBodyComes } from '../../src/os/heap.ts'
import { patched } from '../helpers/channels.ts'
import { test, until } from '../helpers/test.ts'

test('the heap is released each second while large bodies come, and once more after the last', async t => {
  let released = 0
  await patched(
    'releaseHeap',
    original => () => {
      released++
      return original()
    },
    async () => {
      largeBodyComes()
      largeBodyComes()
      await until(() => released === 1, 'the first release')
      largeBodyComes()
      await until(() => released === 3, 'the last release')
    }
  )
  t.is(released, 3)
})
