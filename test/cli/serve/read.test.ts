import {
  addressOf,
  count,
  Expected,
  flag,
  listeners,
  oneOf,
  size,
  text,
  texts,
  time,
  variables,
  workers
} from '../../../src/cli/serve/read.ts'
import { test } from '../../helpers/test.ts'

test('times', t => {
  const cases: [unknown, number][] = [
    ['0', 0],
    ['500ms', 500],
    ['1.5s', 1500],
    ['10m', 600_000],
    ['1h30m', 5_400_000],
    ['2d', 172_800_000],
    [250, 250]
  ]
  for (const [given, expected] of cases) t.is(time(0)(given), expected, String(given))
  for (const given of ['30', '', '1 h', '-1s', '1x', '1h-', -1, 1.5, Number.NaN, null, `${'9'.repeat(30)}d`])
    t.throws(() => time(0)(given), { instanceOf: Expected }, String(given))
  for (const given of ['0', '0ms', 0]) t.throws(() => time(1)(given), { message: 'a time from 1ms on' })
  t.throws(() => time(0)('25d'), { message: 'a time of at most 24d' })
  t.is(time(1, Number.MAX_SAFE_INTEGER)('365d'), 31_536_000_000)
})

test('sizes', t => {
  const cases: [unknown, number][] = [
    ['300M', 300 * 1024 ** 2],
    ['1.5G', 1.5 * 1024 ** 3],
    ['512KiB', 512 * 1024],
    ['1tb', 1024 ** 4],
    [4096, 4096]
  ]
  for (const [given, expected] of cases) t.is(size(given), expected, String(given))
  for (const given of ['300', 'M', '300MM', '-1M', '1 M', '0M', 0, -1, {}])
    t.throws(() => size(given), { instanceOf: Expected }, String(given))
})

test('numbers, choices, texts', t => {
  t.is(count(1, 10)('10'), 10)
  t.is(count(1, 10)(1), 1)
  for (const given of ['0', '11', '1.5', '0x1', '', 1.5, true])
    t.throws(() => count(1, 10)(given), { instanceOf: Expected }, String(given))
  t.is(workers('max'), 'max')
  t.is(workers('4'), 4)
  for (const given of ['0', 'all', '1025'])
    t.throws(() => workers(given), { message: 'a number from 1 to 1,024, or max' })
  t.is(oneOf('a', 'b', 'c')('b'), 'b')
  t.throws(() => oneOf('a', 'b', 'c')('d'), { message: 'a, b or c' })
  t.is(flag(false), false)
  t.throws(() => flag('yes'), { instanceOf: Expected })
  t.throws(() => text(''), { instanceOf: Expected })
  t.deepEqual(texts('one'), ['one'])
  t.deepEqual(texts(['one', 'two']), ['one', 'two'])
  t.throws(() => texts([1]), { instanceOf: Expected })
})

test('variables', t => {
  t.deepEqual(variables({ A: 'a', B: 1, C: false }), { A: 'a', B: '1', C: 'false' })
  for (const given of [null, ['A=1'], { A: {} }, 'A=1']) t.throws(() => variables(given), { instanceOf: Expected })
})

test('addresses and listeners', t => {
  t.deepEqual(addressOf('3000'), { port: 3000 })
  t.deepEqual(addressOf(3000), { port: 3000 })
  t.deepEqual(addressOf('127.0.0.1:80'), { host: '127.0.0.1', port: 80 })
  t.deepEqual(addressOf('[::1]:80'), { host: '::1', port: 80 })
  t.deepEqual(addressOf('./web.sock'), { path: './web.sock' })
  t.deepEqual(addressOf({ port: 1, backlog: 5 }), { port: 1, backlog: 5 })
  for (const given of ['', 'web.sock', '70000', '::1:80', 'host:', null])
    t.throws(() => addressOf(given), { instanceOf: Expected }, String(given))
  t.deepEqual(listeners(['web=3000', 'admin=/run/a=b']), { web: { port: 3000 }, admin: { path: '/run/a=b' } })
  t.deepEqual(listeners({ web: 3000 }), { web: { port: 3000 } })
  for (const given of ['3000', 'web=', '=3000', 'a:b=3000', ['a=1', 'a=2'], { '': 1 }])
    t.throws(() => listeners(given), { instanceOf: Expected }, JSON.stringify(given))
})
