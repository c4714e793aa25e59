/** A state that one process gives to another over a socketpair. Here both are this one. */
import { connect as connectChannel } from '../../src/channel/connect.ts'
import { Connection } from '../../src/connection/connection.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'
import { applyAt } from '../../src/takeover/apply.ts'
import { type Giver, giveState, type Taken, takeState } from '../../src/takeover/hand-over.ts'
import { thisProgram } from '../../src/takeover/messages.ts'
import type { FreezeContext } from '../../src/takeover/owner.ts'
import { test } from '../helpers/test.ts'

const LONG = 30_000

interface Outcome {
  given: boolean
  taken: Taken | undefined
  /** Codes and texts. */
  warnings: string[]
  late: Promise<unknown>[]
}

/** One attempt. `timeout`: the giver's. */
async function handOver(giver: Giver, { accepts, timeout = LONG }: { accepts?: unknown; timeout?: number } = {}) {
  const [left, right] = Descriptor.socketpair()
  return attempt(left, giver, takeState(right, accepts, LONG), timeout)
}

async function attempt(
  end: Descriptor,
  giver: Giver,
  taking: Promise<Taken | undefined>,
  timeout: number
): Promise<Outcome> {
  const { emitWarning } = process
  const warnings: string[] = []
  process.emitWarning = ((text: string, { code }: { code: string }) => void warnings.push(`${code} ${text}`)) as never
  const late: Promise<unknown>[] = []
  try {
    const [given, taken] = await Promise.all([giveState(end, giver, timeout, work => void late.push(work)), taking])
    await Promise.all(late)
    return { given, taken, warnings, late }
  } finally {
    process.emitWarning = emitWarning
  }
}

/** A giver that notes what becomes of its state. */
function noting(state: unknown, more: Partial<Giver> = {}): Giver & { thawed: unknown[]; frozen: number } {
  const giver = {
    thawed: [] as unknown[],
    frozen: 0,
    freeze: (context: FreezeContext): unknown => {
      giver.frozen++
      return more.freeze === undefined ? state : more.freeze(context)
    },
    thaw: (value: unknown): unknown => {
      giver.thawed.push(value)
      return more.thaw?.(value)
    }
  }
  return giver
}

test('any value goes over, with more descriptors than a message takes; what the taker accepts reaches freeze', async t => {
  const pipes = Array.from({ length: 150 }, () => Descriptor.pipe())
  const [near, far] = Descriptor.socketpair()
  const state = { pipes, live: new Connection(near, Buffer.from('unread')), text: 'x'.repeat(2_000_000) }
  let accepted: unknown
  const giver = noting(state, {
    freeze: async ({ accepts }) => {
      accepted = accepts
      return state
    }
  })
  const { given, taken, warnings } = await handOver(giver, { accepts: ['v2', 'v1'] })
  t.true(given)
  t.deepEqual(accepted, ['v2', 'v1'])
  t.deepEqual([giver.frozen, giver.thawed, warnings], [1, [], []])
  t.true(pipes.every(({ readable, writable }) => readable.closed && writable.closed))
  t.true(state.live.closed)
  t.is(taken!.connections, 1)
  const copy = taken!.state as typeof state
  t.is(copy.text, state.text)
  t.is(`${copy.live.head}`, 'unread')
  const byte = Buffer.alloc(1)
  for (const [index, { readable, writable }] of copy.pipes.entries()) {
    t.is(native.writeNow(writable.borrow(), Buffer.from([index]), 0, 1), 1)
    t.is(native.readNow(readable.borrow(), byte, 0, 1), 1)
    t.is(byte[0], index)
    readable.close()
    writable.close()
  }
  copy.live.close()
  far.close()
})

test('undefined is a state, too', async t => {
  const { given, taken } = await handOver(noting(undefined))
  t.true(given)
  t.deepEqual(taken, { state: undefined, connections: 0 })
})

test('a freeze that throws, and a state that can’t be sent: the giver keeps it, and is warned', async t => {
  const fails = noting(undefined, {
    freeze: () => {
      throw new Error('not now')
    }
  })
  const thrown = await handOver(fails)
  t.deepEqual([thrown.given, thrown.taken], [false, undefined])
  t.deepEqual(thrown.warnings, ['PASSFD_TAKEOVER_FAILED The replacement gets no state: not now'])
  t.deepEqual(fails.thawed, [])

  const { readable, writable } = Descriptor.pipe()
  const state = { readable, writable, not: () => {} }
  const giver = noting(state)
  const refused = await handOver(giver)
  t.deepEqual([refused.given, refused.taken], [false, undefined])
  t.regex(refused.warnings.join(), /^PASSFD_TAKEOVER_FAILED .*function/)
  t.is(giver.thawed[0], state) // the very value
  t.false(readable.closed || writable.closed)

  writable.close()
  const closed = await handOver(noting({ readable, writable }))
  t.regex(closed.warnings.join(), /^PASSFD_TAKEOVER_FAILED .*closed/)
  t.false(readable.closed)
  readable.close()
})

test('freeze is called only for a process that asks; the end of the pair, and time, end the wait', async t => {
  const [gone, left] = Descriptor.socketpair()
  gone.close()
  const giver = noting(1)
  t.false((await attempt(left, giver, Promise.resolve(undefined), LONG)).given)

  const [silent, waits] = Descriptor.socketpair()
  t.false((await attempt(waits, giver, Promise.resolve(undefined), 20)).given)
  silent.close()

  // It says hello, and asks for nothing
  const [near, far] = Descriptor.socketpair()
  const channel = connectChannel(far, { authorize: () => true })
  t.false((await attempt(near, giver, Promise.resolve(undefined), 50)).given)
  await (await channel).closed
  t.is(giver.frozen, 0)

  // And the taker
  const [other, end] = Descriptor.socketpair()
  other.close()
  t.is(await takeState(end, undefined, LONG), undefined)
  const [quiet, asks] = Descriptor.socketpair()
  t.is(await takeState(asks, undefined, 20), undefined)
  quiet.close()
})

test('a freeze that hangs is abandoned when the time is over; what it returns later comes back by thaw', async t => {
  const { readable, writable } = Descriptor.pipe()
  const state = { readable, writable }
  let aborted = false
  const giver = noting(state, {
    freeze: async ({ signal }) => {
      await new Promise(resolve => signal.addEventListener('abort', resolve))
      aborted = signal.aborted
      return state
    }
  })
  const { given, taken, late, warnings } = await handOver(giver, { timeout: 4000 })
  t.deepEqual([given, taken, aborted, late.length], [false, undefined, true, 1])
  t.deepEqual(warnings, [
    'PASSFD_TAKEOVER_FAILED The replacement gets no state: freeze() has not returned within 4000 ms (handOverTimeout)'
  ])
  t.deepEqual([giver.thawed.length, giver.thawed[0] === state], [1, true])
  t.false(readable.closed || writable.closed)
  readable.close()
  writable.close()
})

test('the giver hears that it keeps its state when thaw is done; if thaw fails, passfd closes the state', async t => {
  const { readable, writable } = Descriptor.pipe()
  const state = { readable, writable }
  const order: string[] = []
  const giver = noting(state, {
    thaw: async value => {
      t.is(value, state)
      t.false(state.readable.closed || state.writable.closed)
      await new Promise(setImmediate)
      order.push('thawed')
      if (giver.thawed.length === 2) throw new Error('my mistake')
    }
  })
  // It has the state, and does not commit
  const givesUp = async (end: Descriptor): Promise<undefined> => {
    const limits = { turnTimeout: LONG, inheritTimeout: LONG, graceTimeout: LONG }
    const setup = { path: '', program: thisProgram(), wants: [], limits, authorize: undefined, signal: undefined }
    const succession = await applyAt(await connectChannel(end, { authorize: () => true }), setup)
    for (const { descriptors } of (await succession.inherit(undefined))!) for (const one of descriptors) one.close()
    succession.giveUp()
  }
  for (const warnings of [[], ['PASSFD_TAKEOVER_THAW thaw() has failed, and the state was closed: my mistake']]) {
    const [left, right] = Descriptor.socketpair()
    const outcome = await attempt(left, giver, givesUp(right), LONG)
    order.push('told')
    t.deepEqual([outcome.given, outcome.warnings], [false, warnings])
    t.deepEqual(order.splice(0), ['thawed', 'told'])
  }
  t.true(readable.closed && writable.closed)
})
