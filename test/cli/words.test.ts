import { table } from '../../src/cli/table.ts'
import { bytes, countOf, duration } from '../../src/cli/words.ts'
import { test } from '../helpers/test.ts'

test('durations', t => {
  const cases: [number, string][] = [
    [0, '0 ms'],
    [999.4, '999 ms'],
    [1000, '1 s'],
    [2345, '2.3 s'],
    [59_000, '59 s'],
    [60_000, '1 min'],
    [200_000, '3 min 20 s'],
    [7_500_000, '2 h 5 min'],
    [356_400_000, '4 d 3 h']
  ]
  for (const [given, expected] of cases) t.is(duration(given), expected)
})

test('sizes and counts', t => {
  t.deepEqual([0, 999, 1024, 83_886_080, 1.5 * 1024 ** 3].map(bytes), ['0 B', '999 B', '1.0 kB', '80 MB', '1.5 GB'])
  t.deepEqual([countOf(1, 'worker'), countOf(1024, 'worker')], ['1 worker', '1,024 workers'])
})

test('tables', t => {
  t.deepEqual(
    table(
      [['PID', 'right'], ['STATE'], ['NOTE']],
      [
        ['1', 'ready', ''],
        ['12345', 'stopping', 'x']
      ]
    ),
    ['  PID  STATE     NOTE', '    1  ready', '12345  stopping  x']
  )
})
