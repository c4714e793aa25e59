/** What the attack `flat` takes for growth. */
import { type Facts, growthOf } from '../../attack/flat/attack.ts'
import { test } from '../helpers/test.ts'

const MEBIBYTE = 2 ** 20
const FLAT: Facts = { rss: 60 * MEBIBYTE, heapUsed: 8 * MEBIBYTE, external: 3 * MEBIBYTE, open: 23, held: 3 }

/** Facts at the begin and after each tenth; `more` changes those of the tenth. */
const series = (more: (tenth: number) => Partial<Facts>): Facts[] =>
  Array.from({ length: 11 }, (_, tenth) => ({ ...FLAT, ...more(tenth) }))

test('memory that is used once, before half-time, is no growth', t => {
  t.deepEqual(
    growthOf(series(tenth => (tenth < 3 ? {} : { rss: 130 * MEBIBYTE, heapUsed: 20 * MEBIBYTE, open: 100 }))),
    []
  )
})

for (const [what, each] of [
  ['rss', 8 * MEBIBYTE],
  ['heapUsed', MEBIBYTE / 4],
  ['external', MEBIBYTE / 4],
  ['open', 20],
  ['held', 20]
] as const)
  test(`what grows all the time is found: ${what}`, t => {
    const found = growthOf(series(tenth => ({ [what]: FLAT[what] + tenth * each })))
    t.is(found.length, 1)
    t.regex(found[0]!, new RegExp(`^${what} has grown from \\d+ at half-time to ${FLAT[what] + 10 * each}$`))
  })
