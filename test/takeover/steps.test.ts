/** A process is killed, or stopped, just before each step of a takeover: service goes on, and the next takeover works. */
import type { ExecutionContext } from 'ava'
import { isFull } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { stopped } from '../helpers/processes.ts'
import { type AnySide, asked, localSide, type Side, startSide } from '../helpers/takeover.ts'
import { test, testInCi } from '../helpers/test.ts'

/** More than one part of an offer. */
const LISTENERS = 241
/** A stopped process is given up. */
const SHORT = { turnTimeout: 5000, inheritTimeout: 5000, graceTimeout: 5000, attemptTimeout: 5000, freezeTimeout: 4500 }
/** Only what happens decides. */
const LONG = {
  turnTimeout: 60_000,
  inheritTimeout: 60_000,
  graceTimeout: 60_000,
  attemptTimeout: 120_000,
  freezeTimeout: 60_000
}
const BEFORE_THE_BYTE = ['begin', 'offer', 'more', 'boot', 'freeze', 'state', 'commit']
const AFTER_THE_BYTE = ['attach', 'mark']
const OFFERING = ['answer begin', 'answer more']
const FREEZING = ['answer freeze', 'answer state']
/** One of each kind: before the freeze, frozen, listening. With the same outcome the others are steps of the model, too (model.test.ts). */
const EACH_TIME = ['more', 'commit', 'attach', 'answer more', 'answer state']

const testOf = (step: string): typeof test => (EACH_TIME.includes(step) ? test : testInCi)

type Who = 'owner' | 'candidate'

interface Cast {
  path: string
  port: number
  owner: AnySide
  candidate: AnySide
  /** That of the two to which something happens: a process. The other one is in this process. */
  victim: Side
  /** What has become of the candidate's attempt: whether it serves, or why not. */
  attempt: Promise<'serves' | 'nobody' | string>
}

/** An owner with a state, and a candidate that takes over with `inherit`; one of the two has something happen to it at a step. */
async function cast(t: ExecutionContext, who: Who, step: string, what: 'KILL' | 'STOP'): Promise<Cast> {
  const path = temporaryPath('seat')
  const options = { limits: what === 'STOP' ? SHORT : LONG, state: { count: 1 } }
  const victim = startSide(t, path, {
    ...options,
    ...(who === 'candidate' && { state: undefined }),
    steps: { [step]: what }
  })
  const [owner, candidate] =
    who === 'owner'
      ? [victim, localSide(t, path, { ...options, state: undefined })]
      : [localSide(t, path, options), victim]
  const port = await owner.ask<number>('bind', LISTENERS, 10)
  return { path, port, owner, candidate, victim, attempt: attempt(candidate).catch(error => error.message as string) }
}

async function attempt(candidate: AnySide): Promise<'serves' | 'nobody'> {
  if ((await candidate.ask('apply')) === null) return 'nobody'
  await candidate.ask('inherit')
  await candidate.ask('commit')
  return 'serves'
}

/** A third one takes over from whoever owns the seat, and ends both. */
async function thenTakenOver(t: ExecutionContext, all: Cast, from: AnySide, count: string): Promise<void> {
  const { path, port } = all
  t.deepEqual(await asked(port), [from.pid, count])
  const next = localSide(t, path, { limits: LONG })
  t.is(await attempt(next), 'serves')
  t.is(await from.told('letGo'), from.pid)
  t.deepEqual(await asked(port), [next.pid, count])
  for (const side of [all.owner, all.candidate, next]) await side.end()
}

for (const step of [...BEFORE_THE_BYTE, ...AFTER_THE_BYTE])
  testOf(step)(`the candidate is killed before ${step}: the owner goes on`, async t => {
    const all = await cast(t, 'candidate', step, 'KILL')
    t.is(await all.candidate.told('step'), step)
    t.regex(await all.attempt, /ended without the expected line/)
    if (step !== 'begin')
      t.deepEqual(await all.owner.told('rollBack'), {
        frozen: ['state', 'commit', ...AFTER_THE_BYTE].includes(step),
        listens: AFTER_THE_BYTE.includes(step)
      })
    await thenTakenOver(t, all, all.owner, '1')
  })

for (const step of OFFERING)
  testOf(step)(`the owner is killed before it can ${step}: whoever comes next binds anew`, async t => {
    const all = await cast(t, 'owner', step, 'KILL')
    t.is(await all.attempt, 'nobody')
    const port = await all.candidate.ask<number>('bind', 1)
    t.deepEqual(await asked(port), [all.candidate.pid, '-'])
    await thenTakenOver(t, { ...all, port }, all.candidate, '-')
  })

for (const step of FREEZING)
  testOf(step)(
    `the owner is killed before it can ${step}: its state is lost with it, its listeners are not`,
    async t => {
      const all = await cast(t, 'owner', step, 'KILL')
      t.is(await all.attempt, 'serves')
      await thenTakenOver(t, all, all.candidate, '-')
    }
  )

test('the owner is killed before it lets go: its successor has everything', async t => {
  const all = await cast(t, 'owner', 'letGo', 'KILL')
  t.is(await all.attempt, 'serves')
  await all.victim.running.exit
  await thenTakenOver(t, all, all.candidate, '1')
})

if (isFull) {
  for (const step of BEFORE_THE_BYTE)
    test(`the candidate is stopped before ${step}: it is too late when it wakes`, async t => {
      const all = await cast(t, 'candidate', step, 'STOP')
      await stopped(all.candidate.pid)
      if (step !== 'begin') await all.owner.told('rollBack')
      t.deepEqual(await asked(all.port), [all.owner.pid, '1'])
      process.kill(all.candidate.pid, 'SIGCONT')
      // The one that has not begun yet is as good as new
      const outcome = await all.attempt
      if (step === 'begin') t.is(outcome, 'serves')
      else t.regex(outcome, /TAKEOVER_(TOO_LATE|OVER|MOVED|TIMEOUT)/)
      await thenTakenOver(t, all, step === 'begin' ? all.candidate : all.owner, '1')
    })

  for (const step of AFTER_THE_BYTE)
    for (const fate of ['CONT', 'KILL'] as const)
      test(`the candidate is stopped before ${step}, after the byte, then ${fate}: nobody else decides`, async t => {
        const all = await cast(t, 'candidate', step, 'STOP')
        await stopped(all.candidate.pid)
        t.like(await all.owner.told('report'), { code: 'silent', pid: all.candidate.pid })
        process.kill(all.candidate.pid, `SIG${fate}`)
        const outcome = await all.attempt
        if (fate === 'CONT') t.is(outcome, 'serves')
        await thenTakenOver(t, all, fate === 'CONT' ? all.candidate : all.owner, '1')
      })

  for (const step of [...OFFERING, ...FREEZING])
    test(`the owner is stopped before it can ${step}: the candidate gives up in time, and it goes on when it wakes`, async t => {
      const all = await cast(t, 'owner', step, 'STOP')
      await stopped(all.owner.pid)
      t.regex(await all.attempt, /TAKEOVER_(TIMEOUT|OVER)/)
      process.kill(all.owner.pid, 'SIGCONT')
      await all.owner.told('rollBack')
      await thenTakenOver(t, all, all.owner, '1')
    })
}
