/** An owner that answers nonsense: what its answers bring is closed in the candidate. */
import { type Channel, connect, Descriptor, pair } from '../../src/index.ts'
import { applyAt } from '../../src/takeover/apply.ts'
import { type Asked, thisProgram } from '../../src/takeover/messages.ts'
import type { Succession } from '../../src/takeover/succession.ts'
import { times } from '../helpers/full.ts'
import { malformed } from '../helpers/malformed.ts'
import { Random } from '../helpers/random.ts'
import { frame, Place, REQUEST, rawPair, reply } from '../helpers/raw-peer.ts'
import { test } from '../helpers/test.ts'

const SEED = Number(process.env.PASSFD_MALFORMED_SEED ?? 1)
const authorize = (): boolean => true

const SETUP = {
  path: '',
  program: thisProgram(),
  wants: undefined,
  limits: { turnTimeout: 10_000, inheritTimeout: 10_000, graceTimeout: 100 },
  authorize,
  signal: undefined
}

/** Both ends of a channel between a candidate and an owner that answers by `answer`. */
async function withOwner(answer: (asked: Asked) => unknown): Promise<[Channel<unknown, Asked>, Channel<any, any>]> {
  const [candidate, end] = pair<unknown, Asked>()
  const owner = await connect<any, any>(end, { authorize })
  owner.serve(({ value }) => answer(value))
  return [candidate, owner]
}

function offered(lane: number): Record<string, unknown> {
  return { name: 'web', lane, kind: 'memfd', options: {}, listener: Descriptor.memfd() }
}

function part(...lanes: number[]): Record<string, unknown> {
  return { listeners: lanes.map(offered) }
}

function offer(): Record<string, unknown> {
  // The other ends are in the answers, where nobody looks for them
  const { readable: life, writable } = Descriptor.pipe()
  const about = { takeover: 1, needs: [], program: thisProgram(), generation: 1, total: 3 }
  return { ...about, ...part(0, 1), path: Descriptor.memfd(), life, further: [writable] }
}

function lastPart(): Record<string, unknown> {
  const { readable: decision, writable } = Descriptor.pipe()
  return { ...part(2), decision, further: [writable] }
}

test('malformed answers of an owner leave no descriptor open', async t => {
  const reached = new Map<string, number>()
  for (let seed = SEED; seed < SEED + times(120, 1200); seed++) {
    const random = new Random(seed)
    const wrong = random.pick(['begin', 'more', 'freeze', 'state'])
    const answer = (asked: Asked): unknown => {
      const right = (): Record<string, unknown> => {
        if (asked.do === 'begin') return offer()
        if (asked.do === 'more') return lastPart()
        if (asked.do === 'freeze') return { parts: 2, bytes: 2, descriptors: 4 }
        return { bytes: Buffer.alloc(1), descriptors: [Descriptor.memfd(), Descriptor.memfd()] }
      }
      return asked.do === wrong ? malformed(random, right()) : right()
    }
    const [channel, owner] = await withOwner(answer)
    let stage = 'begin'
    let succession: Succession | undefined
    try {
      succession = await applyAt(channel, SETUP)
      stage = 'inherit'
      const parts = (await succession.inherit(undefined)) ?? []
      for (const { descriptors } of parts) for (const one of descriptors) one.close()
      stage = 'whole'
    } catch {
      // each error is right
    }
    succession?.giveUp()
    reached.set(stage, (reached.get(stage) ?? 0) + 1)
    channel.destroy()
    owner.destroy()
    await Promise.all([channel.closed, owner.closed])
  }
  t.log(Object.fromEntries(reached))
  for (const stage of ['begin', 'inherit', 'whole']) t.true((reached.get(stage) ?? 0) > 5, stage)
})

test('an offer after which the channel ends at once, because of the same read, leaves no descriptor open', async t => {
  const { channel, peer } = await rawPair<unknown, Asked>()
  const applied = applyAt(channel, SETUP)
  const asked = await peer.next(REQUEST)
  const answer = offer() as Record<string, any>
  const all: Descriptor[] = []
  const place = (given: Descriptor): Place => new Place(all.push(given) - 1)
  for (const one of answer.listeners) one.listener = place(one.listener)
  answer.path = place(answer.path)
  answer.life = place(answer.life)
  answer.further = answer.further.map(place)
  const violation = frame(99)
  peer.send(
    Buffer.concat([reply(asked.id, answer, all.length), violation]),
    all.map(one => one.borrow())
  )
  await t.throwsAsync(applied, { code: 'ERR_PASSFD_CLOSED' })
  await channel.closed
  for (const one of all) one.close()
  peer.close()
})
