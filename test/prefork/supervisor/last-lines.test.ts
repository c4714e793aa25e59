import type { WorkerInfo } from '../../../src/prefork/index.ts'
import { LastLines, MOST_LINES } from '../../../src/prefork/supervisor/last-lines.ts'
import { test } from '../../helpers/test.ts'

const worker = (id: number): WorkerInfo => ({ id, channel: {} }) as WorkerInfo

const KiB = 1024

test('the last lines come in order, with their worker, and not with its channel', t => {
  const lines = new LastLines()
  t.deepEqual(lines.last(100), [])
  const one = worker(1)
  const given = Buffer.from('one')
  lines.add(one, 'stdout', given)
  given.fill(0) // the pipe reads into it again
  lines.add(one, 'stderr', Buffer.from(''))
  lines.add(worker(2), 'stdout', Buffer.from('three'))
  const found = lines.last(2)
  t.deepEqual(
    found.map(({ worker, stream, line, length }) => [worker, stream, `${line}`, length]),
    [
      [{ id: 1 }, 'stderr', '', undefined],
      [{ id: 2 }, 'stdout', 'three', undefined]
    ] as unknown[][]
  )
  t.is(`${lines.last(1000)[0]!.line}`, 'one')
  t.deepEqual(lines.last(0), [])
  t.true(Math.abs(Date.now() - found[1]!.time) < 60_000)
})

test('old lines give way to new ones: by their number, and by their bytes', t => {
  const lines = new LastLines()
  for (let i = 0; i < 2 * MOST_LINES + 7; i++) lines.add(worker(1), 'stdout', Buffer.from(`${i}`))
  const texts = lines.last(5000).map(({ line }) => `${line}`)
  t.deepEqual([texts.length, texts[0], texts.at(-1)], [MOST_LINES, `${MOST_LINES + 7}`, `${2 * MOST_LINES + 6}`])
  // Lines of lengths that don't divide the area
  for (let i = 0; i < 100; i++) {
    lines.add(worker(1), 'stdout', Buffer.alloc(50_001, i))
    const all = lines.last(5000).slice(-(i + 1))
    t.is(all.length, Math.min(i + 1, 20))
    t.true(all.every(({ line }, index) => line.equals(Buffer.alloc(50_001, i + 1 - all.length + index))))
  }
  lines.add(worker(1), 'stdout', Buffer.alloc(300 * KiB, 7))
  const { line, length } = lines.last(1)[0]!
  t.deepEqual([line.equals(Buffer.alloc(64 * KiB, 7)), length], [true, 300 * KiB])
})
