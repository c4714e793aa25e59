import { setImmediate as turn } from 'node:timers/promises'
import { LoanEnds } from '../../src/memory/loan-ends.ts'
import { native } from '../../src/os/native.ts'
import { patched } from '../helpers/channels.ts'
import { test, until } from '../helpers/test.ts'

/** A pipe's two ends. */
function pipe(): [read: number, write: number] {
  const ends = new Int32Array(2)
  native.pipe(ends)
  return [ends[0]!, ends[1]!]
}

function write(fd: number, ...bytes: number[]): void {
  native.writeNow(fd, Uint8Array.from(bytes), 0, bytes.length)
}

/** The ends, and what they have reported. */
function reporting(): { ends: LoanEnds; told: [number, number][] } {
  const told: [number, number][] = []
  return { ends: new LoanEnds((fd, word) => void told.push([fd, word])), told }
}

test('reports each end once, with the last byte that was written, and closes it', async t => {
  const { ends, told } = reporting()
  const pipes = [pipe(), pipe(), pipe()]
  for (const [read] of pipes) ends.add(read)
  const [[first, a], [second, b], [third, c]] = pipes as [[number, number], [number, number], [number, number]]
  write(a, 1)
  write(b, 2, 1, 2)
  native.close(b)
  ends.collect()
  t.deepEqual(told, [[second, 2]])
  native.close(a)
  native.close(c)
  await until(() => told.length === 3, 'the event loop reports the others')
  t.deepEqual(
    told.slice(1).sort(),
    [
      [first, 1],
      [third, 0]
    ].sort()
  )
  ends.collect()
  t.is(told.length, 3)
  ends.close()
})

test('bytes are no event, and an end that was there before is one', async t => {
  const { ends, told } = reporting()
  const [read, end] = pipe()
  ends.add(read)
  let calls = 0
  await patched(
    'edgeReady',
    original => (set, fds) => {
      calls++
      return original(set, fds)
    },
    async () => {
      for (let i = 0; i < 20; i++) {
        write(end, 1)
        await turn()
      }
    }
  )
  t.is(calls, 0)
  const [late, gone] = pipe()
  native.close(gone)
  ends.add(late)
  await until(() => told.length === 1, 'the end that was there before')
  t.deepEqual(told, [[late, 0]])
  native.close(end)
  ends.close()
})

test('many ends at once', async t => {
  const { ends, told } = reporting()
  const pipes = Array.from({ length: 300 }, pipe)
  for (const [read] of pipes) ends.add(read)
  for (const [, end] of pipes) native.close(end)
  ends.collect()
  t.is(told.length, 300)
  ends.close()
})

test('close() closes those that are open, also while it reports others', t => {
  const { ends, told } = reporting()
  const closing: LoanEnds = new LoanEnds(fd => {
    told.push([fd, 0])
    closing.close()
  })
  const pipes = [pipe(), pipe(), pipe(), pipe()]
  for (const [read] of pipes.slice(0, 3)) closing.add(read)
  ends.add(pipes[3]![0])
  for (const [, end] of pipes) native.close(end)
  closing.collect()
  t.is(told.length, 1)
  ends.close()
  closing.close()
})

test('if a number can’t be added, it stays the caller’s, and the next one is added', async t => {
  const { ends, told } = reporting()
  const [read, end] = pipe()
  await patched(
    'edgeAddEnd',
    () => () => -28,
    () => void t.throws(() => ends.add(read), { code: 'ENOSPC' })
  )
  ends.add(read)
  native.close(end)
  ends.collect()
  t.deepEqual(told, [[read, 0]])
  ends.close()
})

for (const name of ['edgeSet', 'watch'] as const)
  test(`if ${name} fails, nothing is left open`, async t => {
    await patched(
      name,
      () => () => -24,
      () => void t.throws(reporting, { code: 'EMFILE' })
    )
  })
