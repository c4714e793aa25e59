/** Thousands of random schedules of a dispatched listener, and the mistakes that they must find. */
import { setImmediate as turn } from 'node:timers/promises'
import { AcceptCounts, UsedPermits } from '../../../src/prefork/control/accept-counts.ts'
import { AcceptPermits } from '../../../src/prefork/listen/accept-permits.ts'
import { DispatchedListener } from '../../../src/prefork/listen/dispatched-listener.ts'
import { times } from '../../helpers/full.ts'
import { test } from '../../helpers/test.ts'
import { Schedule } from './model.ts'
import { Memories } from './model-worker.ts'

/** Runs schedules until one fails. Returns its seed and failure. */
async function firstFailure(first: number, count: number): Promise<string | undefined> {
  await turn() // schedules have timers of their own
  const memories = new Memories()
  for (let seed = first; seed < first + count; seed++) {
    const schedule = new Schedule(seed, memories)
    try {
      const failure = await schedule.run()
      if (failure !== undefined) return `${seed}: ${failure} ${JSON.stringify(schedule.weather)}`
    } catch (error) {
      return `${seed}: ${error instanceof Error ? error.stack : error} ${JSON.stringify(schedule.weather)}`
    }
  }
  return undefined
}

test('no connection waits while a worker is idle, except those that were given to a busy worker; no worker gets one too many', async t => {
  const first = Number(process.env.PASSFD_TEST_SEED ?? 1)
  t.is(await firstFailure(first, times(3000, 30_000)), undefined)
})

/** Replaces a method, and returns what puts it back. */
function mutated<Of extends object, Name extends keyof Of>(of: Of, name: Name, value: Of[Name]): () => void {
  const original = of[name]
  of[name] = value
  return () => {
    of[name] = original
  }
}

const permits = AcceptPermits.prototype
const counts = AcceptCounts.prototype
const used = UsedPermits.prototype
const listener = DispatchedListener.prototype

const MISTAKES: Record<string, () => () => void> = {
  'it does not look again': () => mutated(permits, 'areCertain', () => true),
  'it does not ask for a message': () => mutated(counts, 'wantMessage', () => {}),
  'permits of dead workers count': () => mutated(permits, 'forgetAllBut', () => {}),
  'no memory is read, and messages come later': () =>
    mutated(permits, 'unused', function (this: AcceptPermits, worker) {
      return this.of(worker)
    }),
  'the memory is believed': () => mutated(permits, 'unused', worker => worker.unusedPermits('') ?? 0),
  'no permit counts': () => mutated(permits, 'unused', () => 0),
  'what workers confirm is forgotten': () => mutated(permits, 'confirm', () => {}),
  'news is not wanted': () => mutated(permits, 'want', () => {}),
  'a worker looks for the question before it counts': () => {
    const { add } = used
    return mutated(used, 'add', function (this: UsedPermits, place, count) {
      const wanted = add.call(this, place, 0)
      add.call(this, place, count)
      return wanted
    })
  },
  'a worker does not heed the question': () => {
    const { add } = used
    return mutated(used, 'add', function (this: UsedPermits, place, count) {
      add.call(this, place, count)
      return false
    })
  },
  'a worker that could not accept is not tried again': () => {
    const { accepted } = listener
    return mutated(listener, 'accepted', function (this: DispatchedListener, worker, { error: _, ...rest }) {
      accepted.call(this, worker, { ...rest, count: rest.taken })
    })
  }
}

for (const [what, make] of Object.entries(MISTAKES))
  test(`the schedules find it if ${what}`, async t => {
    const restore = make()
    try {
      const failure = await firstFailure(9000, 30_000) // 4,500 find the rarest mistake
      t.not(failure, undefined)
      t.log(`${failure}`.slice(0, 120))
    } finally {
      restore()
    }
  })
