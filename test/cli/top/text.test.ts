import { address, amount, bars, bytes, clock, delay, duration, plain } from '../../../src/cli/top/text.ts'
import { test } from '../../helpers/test.ts'

test('numbers in few cells', t => {
  const shown = <T>(show: (value: T) => string, values: T[]) => values.map(show).join(' ')
  t.is(
    shown(bytes, [0, 812, 1023.6, 1024, 85.3 * 2 ** 20, 1023.99 * 2 ** 20, 1.2 * 2 ** 30]),
    '0B 812B 1.0K 1K 85.3M 1.0G 1.2G'
  )
  t.is(
    shown(amount, [0, 7.54, 99.96, 310, 999.4, 999.6, 12_400, 1.2e6, 1e18]),
    '0 7.5 100 310 999 1.0k 12.4k 1.2M 1000000T'
  )
  t.is(shown(delay, [0, 0.44, 9.94, 9.96, 120.3, 999, 1000, 3210]), '0.0ms 0.4ms 9.9ms 10ms 120ms 999ms 1.0s 3.2s')
  const [s, m, h, d] = [1000, 60_000, 3_600_000, 86_400_000]
  t.is(
    [-1, 999, 9 * s, 12 * m + 4 * s, 3 * h + 7 * m + 59 * s, 2 * d + 4 * h, 400 * d].map(duration).join(', '),
    '0s, 0s, 9s, 12m 04s, 3h 07m, 2d 04h, 400d 00h'
  )
  t.is(clock(new Date(2026, 0, 2, 7, 5, 9).getTime()), '07:05:09')
})

test('bars: the last that fit, the highest is full', t => {
  t.is(bars([0, 1, 2, 4], 10), '▁▃▅█')
  t.is(bars([9, 0, 1, 2, 4], 2), '▅█')
  t.is(bars([0, 0], 5), '▁▁')
  t.is(bars([], 5), '')
  t.is(bars([1, 2], 0), '')
  t.is(bars([1, 2], -3), '')
})

test('addresses', t => {
  t.is(address({ family: 'IPv4', address: '0.0.0.0', port: 80 }), '0.0.0.0:80')
  t.is(address({ family: 'IPv6', address: '::', port: 80 }), '[::]:80')
  t.is(address({ path: '/run/app.sock' }), '/run/app.sock')
})

test('foreign text commands no terminal, and stays one line', t => {
  t.is(plain('a\x1b[2J\x1b]0;title\x07b\r\n\tc\x9b5nd\x00'), 'ab cd')
  t.is(plain('Error: größer\n    at x'), 'Error: größer at x')
})
