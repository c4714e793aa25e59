import { DescriptorShare, type Part } from '../../src/channel/descriptor-budget.ts'
import { test } from '../helpers/test.ts'

function takeAll(share: DescriptorShare, wanted: number): Part[] {
  const parts: Part[] = []
  for (let part = share.take(wanted); part.total > 0; part = share.take(wanted)) parts.push(part)
  return parts
}

function sum(parts: Part[]): number {
  return parts.reduce((total, part) => total + part.total, 0)
}

test('no more is given than there is, and all of it in the end', t => {
  for (const total of [0, 1, 2, 3, 7, 8, 9, 100, 512, 16_384])
    for (const connections of [1, 2, 7, 1024])
      for (const wanted of [1, 2, 1024]) {
        const parts = takeAll(new DescriptorShare(total, connections), wanted)
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
  const parts = takeAll(new DescriptorShare(10_000, 100), 1024)
  t.true(parts.length >= 100)
  t.true(parts[0]!.total > 500)
  for (const [index, part] of parts.slice(1, 100).entries()) {
    t.true(part.total <= parts[index]!.total)
    t.true(part.total >= 50)
  }
})

test('what comes back can be given again', t => {
  const share = new DescriptorShare(64, 8)
  const first = takeAll(share, 16)
  for (const part of first) share.giveBack(part)
  t.deepEqual(takeAll(share, 16), first)
  t.is(share.take(1).total, 0)
  share.giveBack(first.at(-1)!)
  t.is(share.take(16).total, first.at(-1)!.total)
  t.is(share.take(1).total, 0)
})
