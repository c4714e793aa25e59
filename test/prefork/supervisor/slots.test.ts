/** A slot whose worker has died: who is started there, and when nobody is. */
import { execFileSync } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import type { SupervisorOptions } from '../../../src/prefork/index.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { allOf, KINDS, light, only, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

const NOT_READY = 'ERR_PASSFD_WORKER_NOT_READY'

for (const kind of KINDS)
  test(`${kind.name}: the policy is asked after every death; one that gives up is told, and run() rejects when no slot is left`, async t => {
    const entry = program(kind.waits())
    const asked: string[] = []
    const restart: SupervisorOptions['restart'] = deaths => {
      const { slot, booted, uptime } = deaths.at(-1)!
      asked.push(`${slot} ${booted} ${uptime > 0}`)
      return asked.length === 1 ? { restart: true, delay: 0 } : { restart: false, reason: 'it is enough' }
    }
    await supervising(t, { ...kind.options(entry), workers: 2, restart }, async (supervisor, { told, exits }) => {
      const running = supervisor.run({ signals: false })
      const die = (slot: number) => process.kill(supervisor.workers.find(one => one.slot === slot)!.pid!, 'SIGUSR2')
      const isReady = async (...ids: number[]) => {
        await only(supervisor, ...ids)
      }
      await isReady(1, 2)
      die(0)
      await isReady(3, 2)
      die(0)
      await until(() => told.length === 1, 'that it has given up')
      await supervisor.scale(2) // it fills the slot again
      await isReady(4, 2)
      die(0)
      await until(() => told.length === 2, 'that it has given up')
      await supervisor.reload()
      await isReady(5, 6)
      die(0)
      die(1)
      const error = await t.throwsAsync(running, { code: 'ERR_PASSFD_WORKERS_DIE' })
      t.regex(error.message, /slot [01]: it is enough/)
      t.is(told.length, 4)
      t.true(told.every(line => line.includes('it is enough')))
      t.deepEqual(asked, ['0 true true', '0 true true', '0 true true', ...asked.slice(3)])
      t.is(exits.filter(line => line.endsWith(' 7')).length, 5)
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: a policy that throws, or answers nonsense, has given up; one that wants to wait for ever waits`, async t => {
    const entry = program(kind.waits())
    const wrong: [() => unknown, RegExp][] = [
      [
        () => {
          throw new Error('my mistake')
        },
        /failed: my mistake/
      ],
      [() => undefined, /failed: Cannot read/],
      [() => ({ restart: true, delay: Number.NaN }), /returned .*"delay":null/],
      [() => ({}), /returned \{\}/]
    ] // prettier-ignore
    await allOf(
      wrong.map(([restart, says]) =>
        supervising(t, { ...kind.options(entry), restart: restart as never }, async (supervisor, { told }) => {
          const running = supervisor.run({ signals: false })
          await only(supervisor, 1)
          process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
          await t.throwsAsync(running, { code: 'ERR_PASSFD_WORKERS_DIE', message: says })
          t.is(told.length, 1)
        })
      )
    )
    const delays = [Number.POSITIVE_INFINITY, 20]
    const restart = () => ({ restart: true, delay: delays.shift()! }) as const
    await supervising(t, { ...kind.options(entry), restart, workers: 2 }, async (supervisor, { exits, states }) => {
      await supervisor.start()
      for (const [slot, { pid }] of [...supervisor.workers].sort((one, other) => one.slot - other.slot).entries()) {
        process.kill(pid!, 'SIGUSR2')
        await until(() => exits.length === slot + 1, 'its end')
      }
      await until(() => states.includes('1/3 ready'), 'a successor of the one that died later')
      t.is(
        states.findLast(state => state.startsWith('0/')),
        '0/1 exited'
      )
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: the old one dies while its successor fails: the slot is filled as after any death`, async t => {
    const entry = program(kind.waits())
    await supervising(t, kind.options(entry), async (supervisor, { exits }) => {
      await supervisor.start()
      const pid = supervisor.workers[0]!.pid!
      program(kind.hesitates, entry)
      const reloading = supervisor.reload()
      await until(() => supervisor.workers.length === 2, 'the successor')
      process.kill(pid, 'SIGKILL')
      await until(() => exits.length === 1, 'the end of the old one')
      // In this order: its shell may not have read the program yet, and would read this one
      process.kill(supervisor.workers[0]!.pid!, 'SIGKILL')
      program(kind.waits(), entry)
      await t.throwsAsync(reloading, { code: NOT_READY })
      t.deepEqual(exits, ['0/1 SIGKILL', '0/2 SIGKILL'])
      await only(supervisor, 3)
      t.like(supervisor.workers[0], { restarts: 2, restartReason: 'it was killed by SIGKILL (Killed)' })
    })
  })

test('a worker that dies while others are still starting is replaced', async t => {
  // The first one that starts gets ready, the second one when the test has written into the pipe; all others do at once
  const [first, second, pipe] = [temporaryPath('first'), temporaryPath('second'), temporaryPath('pipe')]
  execFileSync('mkfifo', [pipe])
  const entry = program(`mkdir ${first} 2> /dev/null && exec ${light()}
    mkdir ${second} 2> /dev/null && read line < ${pipe}
    exec ${light()}`)
  await supervising(t, { command: ['/bin/sh', entry], workers: 2 }, async (supervisor, { states, exits }) => {
    const starting = supervisor.start()
    await until(() => states.some(line => line.endsWith('ready')), 'the first one')
    const { id, slot, pid } = supervisor.workers.find(({ state }) => state === 'ready')!
    process.kill(pid!, 'SIGKILL')
    await until(() => exits.length === 1, 'its end')
    t.deepEqual(exits, [`${slot}/${id} SIGKILL`])
    // Resolves when the second one reads
    await writeFile(pipe, 'go on\n')
    await starting
    await only(supervisor, ...(slot === 0 ? [3, 2] : [1, 3]))
    t.deepEqual(
      supervisor.workers.map(({ restarts }) => restarts),
      slot === 0 ? [1, 0] : [0, 1]
    )
    const reasons = supervisor.workers.map(({ restartReason }) => restartReason)
    t.is(reasons[slot], 'it was killed by SIGKILL (Killed)')
    t.is(reasons[1 - slot], undefined)
  })
})
