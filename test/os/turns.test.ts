/** How long the turns of the event loop take. */
import { setTimeout as later } from 'node:timers/promises'
import { native } from '../../src/os/native.ts'
import { test } from '../helpers/test.ts'

function block(milliseconds: number): void {
  const until = performance.now() + milliseconds
  while (performance.now() < until);
}

test('longestTurn(): a turn that blocks the loop counts, the present one too, each once; sleep does not', async t => {
  native.longestTurn()
  block(30)
  const present = native.longestTurn()
  t.true(present >= 30_000 && present < 30_000_000, `${present} µs`)
  await new Promise(resolve => setImmediate(resolve))
  setImmediate(() => block(40))
  setImmediate(() => block(20))
  await later(1)
  await later(1)
  const past = native.longestTurn()
  t.true(past >= 60_000, `${past} µs`)
  const start = performance.now()
  // Nothing to do but to sleep. A busy machine may interrupt that, so it is tried several times
  let least = Infinity
  for (let i = 0; i < 20 && least >= 20_000; i++) {
    native.longestTurn()
    await later(40)
    least = Math.min(least, native.longestTurn())
  }
  t.true(performance.now() - start >= 39)
  t.true(least >= 0 && least < 20_000, `${least} µs`)
})
