import { setImmediate as turn } from 'node:timers/promises'
import type { Descriptor, Message } from '../../src/index.ts'
import { Bench, cancel, credit } from '../helpers/bench.ts'
import { times } from '../helpers/full.ts'
import { Random } from '../helpers/random.ts'
import {
  body,
  documented,
  FAULT,
  frame,
  goodbye,
  hello,
  message,
  places,
  reply,
  request,
  taken
} from '../helpers/raw-peer.ts' // prettier-ignore
import { test } from '../helpers/test.ts'

const runs = Number(process.env.PASSFD_MODEL_RUNS ?? times(30, 300))

/** A frame that may be right at some time, with its descriptors. */
function anyFrame(random: Random): [bytes: Buffer, descriptors: number] {
  const count = random.integer(0, 4)
  const id = random.integer(0, 6)
  const value = [random.pick<unknown>([0, 'text', 'x'.repeat(random.magnitude(1, 3000)), { a: [1] }]), ...places(count)]
  const noise = Buffer.from(Array.from({ length: random.integer(0, 40) }, () => random.integer(0, 255)))
  return random.weighted<() => [Buffer, number]>([
    [6, () => [message(value, count), count]],
    [6, () => [request(id, value, count, random.integer(0, 255)), count]],
    [3, () => [reply(id, value, count), count]],
    [2, () => [frame(FAULT, body({ code: 'E' }), { id }), 0]],
    [3, () => [cancel(id), 0]],
    [3, () => [credit(random.magnitude(1, 0xffffffff)), 0]],
    [3, () => [taken(random.integer(0, 4)), 0]],
    [0.5, () => [goodbye(random.pick(['', '', 'E'])), 0]],
    [0.3, () => [hello(), 0]],
    [0.2, () => [message(places(253), 253), 253]],
    [0.2, () => [frame(random.integer(0, 10), noise, { count, flags: random.pick([0, 8, 3, 0x100]), id }), count]],
    [0.2, () => [message(value, count), random.integer(0, 5)]]
  ])()
}

/** Reads in one of the ways, answers sometimes. Gives the descriptors that it has kept. */
function program(bench: Bench, random: Random): Descriptor[] {
  const kept: Descriptor[] = []
  const use = ({ descriptors }: Message): void => {
    for (const each of descriptors) if (random.chance(0.3)) kept.push(each.claim())
  }
  const { channel } = bench
  const way = random.integer(0, 3)
  if (way === 0)
    channel.serve(async received => {
      use(received)
      if (random.chance(0.5)) await turn()
      if (random.chance(0.2)) throw new Error('no')
      return received.isRequest && random.chance(0.3) ? bench.files(random.integer(0, 3)) : 'yes'
    })
  else if (way === 1) channel.on('message', use)
  else if (way === 2)
    void (async () => {
      for await (const received of channel) {
        use(received)
        await turn()
      }
    })()
  return kept
}

/** Sends or asks something; keeps what can't be sent. */
function speak(bench: Bench, random: Random, kept: Descriptor[]): void {
  const files = bench.files(random.integer(0, 3))
  try {
    if (random.chance(0.5)) void bench.channel.send(files)
    else
      void bench.channel.request(files, { timeout: random.pick([0, 20]), descriptors: 4 }).then(
        answer => kept.push(...[answer].flat().filter((item: any): item is Descriptor => item?.borrow !== undefined)),
        () => {}
      )
  } catch {
    kept.push(...files)
  }
}

test('whatever a peer writes, nothing is leaked, nothing hangs, and the end has a documented code', async t => {
  for (let seed = 1; seed <= runs; seed++) {
    const random = new Random(seed)
    const bench = new Bench({
      window: random.magnitude(1, 1 << 22),
      maxPending: random.pick([1, 3, 1024]),
      maxDescriptors: random.pick([0, 2, 253]),
      maxUnclaimed: random.pick([1, 10, 1024]),
      maxMessage: random.pick([100, 40_000, 1 << 21]),
      hello: random.chance(0.9)
        ? { window: random.magnitude(1, 1 << 22), maxMessage: random.pick([50, 1 << 20]) }
        : null
    })
    const kept = program(bench, random)
    for (let left = random.integer(1, 30); left > 0 && bench.outcome === 'open'; left--) {
      const [bytes, count] = anyFrame(random)
      const cut = random.chance(0.3) ? random.integer(1, bytes.length - 1) : bytes.length
      await bench.say(bytes.subarray(0, cut), count)
      if (cut < bytes.length && random.chance(0.95)) await bench.say(bytes.subarray(cut))
      if (random.chance(0.4)) speak(bench, random, kept)
      if (random.chance(0.1)) await bench.pass(15)
      if (random.chance(0.02)) void bench.channel.close()
      if (random.chance(0.02)) await bench.hangUp()
      if (random.chance(0.01)) await bench.reset()
    }
    if (!['open', 'clean', 'E'].includes(bench.outcome)) documented(bench.outcome.replace('ERR_PASSFD_', ''))
    bench.channel.destroy()
    await bench.settle()
    for (const each of kept) each[Symbol.dispose]()
    await bench.finish(t, `seed ${seed}`)
  }
})
