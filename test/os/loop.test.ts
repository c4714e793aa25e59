import { openSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { closeAside, discard } from '../../src/os/loop.ts'
import { native } from '../../src/os/native.ts'
import { isOpen } from '../helpers/facts.ts'
import { test } from '../helpers/test.ts'

const ENOMEM = -12

/** Runs `work` in a process that has no memory for a batch of descriptors to be closed on a helper thread. */
function withoutMemory(work: () => void): void {
  const { closeLater } = native
  native.closeLater = () => ENOMEM
  try {
    work()
  } finally {
    native.closeLater = closeLater
  }
}

function held(): number {
  const fd = openSync('/dev/null', 'r')
  native.hold(fd)
  return fd
}

test('descriptors that no helper thread can be given are closed at once', async t => {
  const fds = [held(), held()]
  const one = held()
  const before = native.held()
  const counts: number[] = []
  let isDone = false
  withoutMemory(() => {
    discard(fds, count => counts.push(count))
    discard([held()])
    closeAside([one], () => {
      isDone = true
    })
  })
  t.is(native.held(), before - 3)
  t.deepEqual([...fds, one].map(isOpen), [false, false, false])
  t.deepEqual([counts, isDone], [[], false], 'callbacks come later, as always')
  while (!isDone) await turn()
  t.deepEqual(counts, [2])
})
