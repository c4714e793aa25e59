import * as fs from 'node:fs'
import { Descriptor } from '../../src/index.ts'
import { closeFile } from '../../src/os/close-file.ts'
import { native } from '../../src/os/native.ts'
import { isOpen } from '../helpers/facts.ts'
import { startFixture } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

test('a file is closed, and the shim holds it no more; a failure is told', async t => {
  const fd = Descriptor.openSync('/dev/null').detach()
  native.hold(fd)
  const held = native.held()
  t.falsy(await new Promise(resolve => closeFile(fd, resolve)))
  t.false(isOpen(fd))
  t.is(native.held(), held - 1)
  const gone = fs.openSync('/dev/null', 'r')
  native.hold(gone)
  fs.closeSync(gone) // somebody else's mistake
  const error = await new Promise<NodeJS.ErrnoException>(resolve => closeFile(gone, resolve as never))
  t.is(error.code, 'EBADF')
})

test('in a worker thread files are closed, too, and Node does not warn of numbers it does not know', async t => {
  const { line, exit } = startFixture('closing-worker')
  t.deepEqual(JSON.parse(await line()), { warnings: [], open: [] })
  t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
})
