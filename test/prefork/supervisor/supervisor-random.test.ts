/** Random commands, deaths and broken programs: whatever happens, the states are those drawn, and in the end all is as asked for. */
import fc from 'fast-check'
import type { Supervisor } from '../../../src/prefork/index.ts'
import { isFull, times } from '../../helpers/full.ts'
import { ALL_KINDS, type Kind, program, supervising } from '../../helpers/supervising.ts'
import { testInCi, until } from '../../helpers/test.ts'

/** See WorkerState. */
const NEXT: Record<string, string[]> = {
  starting: ['ready', 'stopping', 'exited'],
  ready: ['stopping', 'hung', 'exited'],
  stopping: ['hung', 'exited'],
  hung: ['exited'],
  exited: []
}

type Step =
  | { do: 'reload' | 'break' | 'mend' }
  | { do: 'scale'; to: number }
  | { do: 'signal'; which: number; signal: NodeJS.Signals }

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constantFrom('reload' as const, 'break' as const, 'mend' as const) }),
  fc.record({ do: fc.constant('scale' as const), to: fc.integer({ min: 1, max: 3 }) }),
  fc.record({
    do: fc.constant('signal' as const),
    which: fc.nat(5),
    signal: fc.constantFrom('SIGKILL' as const, 'SIGTERM' as const, 'SIGUSR2' as const)
  })
)
/** `wait`: until what was asked for is done. */
const steps = (most: number) => fc.array(fc.record({ step, wait: fc.boolean() }), { minLength: 3, maxLength: most })

for (const kind of ALL_KINDS)
  testInCi(`${kind.name}: random commands and deaths`, async t => {
    const few = kind.name === 'Node' && !isFull // each step may start a process or two
    const whole = fc.asyncProperty(steps(few ? 4 : 7), fc.constantFrom('rest', 'stop', 'kill'), async (todo, end) => {
      const entry = program(kind.waits(0))
      const restart = () => ({ restart: true, delay: 50 }) as const
      await supervising(
        t,
        { ...kind.options(entry), workers: few ? 1 : 2, restart },
        async (supervisor, { states }) => {
          await supervisor.start()
          const failures: Promise<string>[] = []
          for (const { step, wait } of todo) {
            const done = perform(supervisor, step, kind, entry)
            failures.push(
              done.then(
                () => '',
                ({ code }) => code
              )
            )
            if (wait) await done.catch(() => {})
          }
          program(kind.waits(0), entry)
          if (end === 'rest') {
            await Promise.all(failures)
            await supervisor.reload() // what has failed before is nothing to it
            await until(
              () => isComplete(supervisor),
              `${supervisor.size} workers: ${JSON.stringify(supervisor.workers.map(({ slot, state }) => [slot, state]))}`
            )
          } else await supervisor[end as 'stop' | 'kill']()
          await supervisor.stop()
          for (const code of await Promise.all(failures))
            t.true(['', 'ERR_PASSFD_WORKER_NOT_READY', 'ERR_PASSFD_SUPERVISOR_STOPPED'].includes(code), code)
          checkStates(states)
        }
      )
    })
    await fc.assert(whole, { numRuns: kind.name === 'C' ? times(3, 50) : times(1, 10), endOnFailure: true })
  })

async function perform(supervisor: Supervisor, step: Step, kind: Kind, entry: string): Promise<void> {
  if (step.do === 'reload') await supervisor.reload()
  else if (step.do === 'scale') await supervisor.scale(step.to)
  else if (step.do === 'signal') {
    const { workers } = supervisor
    const pid = workers[step.which % Math.max(1, workers.length)]?.pid
    if (pid !== undefined) signal(pid, step.signal)
  } else program(step.do === 'break' ? kind.fails(3) : kind.waits(0), entry)
}

/** It may have ended, and others of its session are still looked for. */
function signal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** One that is ready in each slot, and nobody else. */
function isComplete({ workers, size }: Supervisor): boolean {
  return workers.length === size && workers.every(({ slot, state }, index) => slot === index && state === 'ready')
}

function checkStates(lines: readonly string[]): void {
  const states = new Map<string, string>()
  for (const line of lines) {
    const [who = '', state = ''] = line.split(' ')
    const before = states.get(who)
    if (before === undefined ? state !== 'starting' : !NEXT[before]!.includes(state))
      throw new Error(`${who}: from ${before} to ${state}`)
    states.set(who, state)
    const [slot] = who.split('/')
    const there = [...states].filter(([other, now]) => other.startsWith(`${slot}/`) && now === 'ready')
    if (there.length > 2) throw new Error(`${there.length} are ready in slot ${slot}`)
  }
  for (const [who, state] of states) if (state !== 'exited') throw new Error(`${who} is left ${state}`)
}
