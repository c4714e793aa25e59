import { openSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { closeAside, discard, Watcher } from '../../src/os/loop.ts'
import { FAILED, native, READABLE, WRITABLE } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { isOpen } from '../helpers/facts.ts'
import { test, until } from '../helpers/test.ts'

const ENOMEM = -12

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
  const withoutMemory = () => () => ENOMEM
  await patched('closeLater', withoutMemory, async () => {
    discard(fds, count => counts.push(count))
    discard([held()])
    closeAside([one], () => {
      isDone = true
    })
    t.is(native.held(), before - 3)
    t.deepEqual([...fds, one].map(isOpen), [false, false, false])
    t.deepEqual([counts, isDone], [[], false], 'callbacks come later, as always')
  })
  while (!isDone) await turn()
  t.deepEqual(counts, [2])
})

// --- watchers

/** The calls of `interest` while `work` runs. */
async function asked(work: () => Promise<void>): Promise<number[]> {
  const wanted: number[] = []
  await patched(
    'interest',
    original => (id, events) => {
      wanted.push(events)
      return original(id, events)
    },
    work
  )
  return wanted
}

test('what is wanted already is not asked for again, because that takes the descriptor out of epoll and adds it', async t => {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  const watcher = new Watcher(ends[0]!, () => {})
  const wanted = await asked(async () => {
    watcher.want(true, false)
    for (let i = 0; i < 3; i++) watcher.want(true, true)
    for (let i = 0; i < 3; i++) watcher.want(false, false)
    watcher.want(true, false)
  })
  t.deepEqual(wanted, [READABLE | WRITABLE, 0, READABLE])
  watcher.end()
  native.closeMany(ends, 0, 2)
})

test('after a failure the same is asked for again, because the shim has stopped watching', async t => {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  const [left, right] = ends as unknown as [number, number]
  const told: number[] = []
  const watcher = new Watcher(left, events => told.push(events))
  native.send(left, Buffer.from('x'), 0, 1, ends, 0, 0)
  native.close(right) // with an unread byte: a reset
  await until(() => told.length > 0, 'the failure')
  t.deepEqual(told, [FAILED])
  t.deepEqual(await asked(async () => watcher.want(true, false)), [READABLE])
  await until(() => told.length > 1, 'it is watched again')
  watcher.end()
  native.close(left)
})
