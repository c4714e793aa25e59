import { DescriptorBudget, type Part } from '../../src/channel/descriptor-budget.ts'
import { test } from '../helpers/test.ts'

function takeAll(budget: DescriptorBudget, wanted: number): Part[] {
  const parts: Part[] = []
  for (let part = budget.allot(wanted); part.total > 0; part = budget.allot(wanted)) parts.push(part)
  return parts
}

function sum(parts: Part[]): number {
  return parts.reduce((total, part) => total + part.total, 0)
}

test('no more is given than there is, and all of it in the end', t => {
  for (const total of [0, 1, 2, 3, 7, 8, 9, 100, 512, 16_384])
    for (const connections of [1, 2, 7, 1024])
      for (const wanted of [1, 2, 1024]) {
        const parts = takeAll(new DescriptorBudget(total, connections), wanted)
        const what = `${total} for ${connections} that want ${wanted}`
        t.true(sum(parts) <= total, what)
        t.true(parts.length >= Math.min(Math.ceil(total / 2), connections), what)
        t.true(
          parts.every(part => part.total <= wanted),
          what
        )
        if (wanted === 1) t.is(sum(parts), total, what)
      }
})

test('the first get much, later ones less, and as many as may connect get something', t => {
  const parts = takeAll(new DescriptorBudget(10_000, 100), 1024)
  t.true(parts.length >= 100)
  t.true(parts[0]!.total > 500)
  for (const [index, part] of parts.slice(1, 100).entries()) {
    t.true(part.total <= parts[index]!.total)
    t.true(part.total >= 50)
  }
})

test('what comes back can be given again', t => {
  const budget = new DescriptorBudget(64, 8)
  const first = takeAll(budget, 16)
  for (const part of first) budget.giveBack(part)
  t.deepEqual(takeAll(budget, 16), first)
  t.is(budget.allot(1).total, 0)
  budget.giveBack(first.at(-1)!)
  t.is(budget.allot(16).total, first.at(-1)!.total)
  t.is(budget.allot(1).total, 0)
})
