/** In such an executable: test/runners/bundlers. */
import { isSingleExecutable, takeAsset } from '../../src/os/single-executable.ts'
import { test } from '../helpers/test.ts'

test('this process is none, and has no assets', t => {
  t.false(isSingleExecutable())
  t.is(
    takeAsset('passfd.node', () => t.fail()),
    undefined
  )
})
