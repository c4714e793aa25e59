import type { Descriptor } from '../../src/descriptor/descriptor.ts'
import { Life, makeDecision, OtherLife, takeByte } from '../../src/takeover/pipes.ts'
import { patched } from '../helpers/channels.ts'
import { test } from '../helpers/test.ts'

const EIO = -5

/** Runs `work` while no pipe can be read. */
function whileReadsFail(work: () => void): Promise<void> {
  return patched(
    'readNow',
    () => () => EIO,
    async () => work()
  )
}

test('a read that fails takes no byte: one side gets it later, and the other one never', async t => {
  const decision = makeDecision()
  const other = decision.dup()
  await whileReadsFail(() => t.false(takeByte(decision)))
  t.true(takeByte(other))
  t.false(takeByte(decision))
  decision.close()
  other.close()
})

test('a read that fails is neither the mark of the other side nor its end', async t => {
  const life = new Life()
  const events: string[] = []
  const other = new OtherLife(life.readEnd(), { onMark: () => events.push('mark'), onEnd: () => events.push('end') })
  life.mark()
  await whileReadsFail(() => other.look())
  t.deepEqual(events, [])
  other.look()
  life.end()
  other.look()
  t.deepEqual(events, ['mark', 'end'])
  other.close()
})

test('the mark is for the predecessor alone: a later candidate that looks first leaves it there', t => {
  const life = new Life()
  const events: string[] = []
  const listener = (who: string) => ({
    onMark: () => events.push(`${who}: mark`),
    onEnd: () => events.push(`${who}: end`)
  })
  const predecessor = new OtherLife(life.readEnd(), listener('predecessor'))
  life.mark()
  const candidate = new OtherLife(life.readEnd(), listener('candidate'))
  candidate.look()
  t.deepEqual(events, [])
  life.end()
  candidate.look()
  predecessor.look()
  t.deepEqual(events, ['candidate: end', 'predecessor: mark', 'predecessor: end'])
})

test('without a mark the end of a life pipe is all that the other side sees', t => {
  const life = new Life()
  const events: string[] = []
  const end: Descriptor = life.readEnd()
  const other = new OtherLife(end, { onMark: () => events.push('mark'), onEnd: () => events.push('end') })
  life.end()
  other.look()
  t.deepEqual(events, ['end'])
  t.true(end.closed)
})
