/** A watch of a store, with turns that the test gives. */
import type { EntryFacts } from '../../src/store/entry.ts'
import type { StoredEntry, Told } from '../../src/store/messages.ts'
import { type Occurrence, Watch } from '../../src/store/watch.ts'
import { test } from '../helpers/test.ts'

const facts = (entry: number): EntryFacts => ({ entry, name: `${entry}` }) as EntryFacts
const occurrence = (entry: number, event: Occurrence['event'] = 'put'): Occurrence => ({
  event,
  facts: facts(entry),
  entry: { entry } as StoredEntry
})

/** Entries 1 to `count`, two in a part. */
function watchOf(count: number, shows: (number: number) => boolean = () => true) {
  const works: (() => void)[] = []
  const sent: { told: Told; drained(): void }[] = []
  const watch = new Watch(7, {
    part(after) {
      const numbers = Array.from({ length: count }, (_, i) => i + 1).filter(number => number > after)
      const part = numbers.slice(0, 2)
      const entries = part.filter(shows).map(entry => ({ entry }) as StoredEntry)
      return part.length < numbers.length ? { entries, after: part.at(-1)! } : { entries }
    },
    shows: entry => shows(entry.facts.entry),
    send: told => new Promise(resolve => sent.push({ told, drained: resolve })),
    later: work => void works.push(work)
  })
  return {
    watch,
    /** Gives a turn, and returns what was sent in it. */
    async turn(): Promise<(string | number)[]> {
      await new Promise(resolve => setImmediate(resolve))
      const before = sent.length
      for (const work of works.splice(0)) work()
      return sent.slice(before).flatMap(({ told }) => {
        if (told.event === 'list') return ['list', ...told.entries.map(({ entry }) => entry), told.more ? '…' : '.']
        return [told.event, (told as { entry: StoredEntry }).entry.entry]
      })
    },
    drain(): void {
      for (const { drained } of sent.splice(0)) drained()
    }
  }
}

test('a list comes in parts, each when the one before has left; what happens to listed entries comes between them', async t => {
  const { watch, turn, drain } = watchOf(5)
  t.deepEqual(await turn(), ['list', 1, 2, '…'])
  t.deepEqual(await turn(), [], 'the part has not left')
  watch.onEvent(occurrence(2, 'removed'))
  watch.onEvent(occurrence(4, 'removed')) // the part with it is still to come
  t.deepEqual(await turn(), ['removed', 2])
  t.deepEqual(await turn(), [])
  drain()
  t.deepEqual(await turn(), ['list', 3, 4, '…'])
  drain()
  t.deepEqual(await turn(), ['list', 5, '.'])
  watch.onEvent(occurrence(9))
  t.deepEqual(await turn(), ['put', 9])
})

test('one message a turn, and none of what the client may not see', async t => {
  const { watch, turn, drain } = watchOf(4, number => number !== 1 && number !== 2)
  t.deepEqual(await turn(), [], 'nothing to see in the first part')
  t.deepEqual(await turn(), ['list', 3, 4, '.'])
  drain()
  for (const number of [1, 5, 6]) watch.onEvent(occurrence(number))
  t.deepEqual(await turn(), [])
  t.deepEqual(await turn(), ['put', 5])
  t.deepEqual(await turn(), ['put', 6])
  t.deepEqual(await turn(), [])
})

for (const isSlow of [true, false])
  test(`too much at once is void, and a new list comes${isSlow ? ' when the client has read what was sent' : ''}`, async t => {
    const { watch, turn, drain } = watchOf(2)
    await turn()
    drain()
    await turn()
    if (isSlow) {
      watch.onEvent(occurrence(1, 'leased'))
      t.deepEqual(await turn(), ['leased', 1])
    }
    for (let i = 0; i < 70; i++) watch.onEvent(occurrence(1, 'removed'))
    if (isSlow) {
      t.deepEqual(await turn(), [])
      watch.onEvent(occurrence(2, 'removed'))
      t.deepEqual(await turn(), [])
      drain()
    } else t.deepEqual(await turn(), [])
    t.deepEqual(await turn(), ['list', 1, 2, '.'])
  })

test('an ended watch sends nothing', async t => {
  const { watch, turn } = watchOf(2)
  watch.end()
  watch.onEvent(occurrence(1))
  t.deepEqual(await turn(), [])
})
