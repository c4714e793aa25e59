/** Reloading, scaling and stopping, in every order. */
import { setImmediate as turn } from 'node:timers/promises'
import { get, KINDS, light, only, program, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

const STOPPED = { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' }
const NOT_READY = 'ERR_PASSFD_WORKER_NOT_READY'

for (const kind of KINDS)
  test(`${kind.name}: reload: new code, one by one; what does not get ready changes nothing`, async t => {
    const entry = program(kind.waits())
    await supervising(t, { ...kind.options(entry), workers: 2 }, async (supervisor, { states, exits }) => {
      await supervisor.start()
      await supervisor.reload()
      t.deepEqual(
        states.slice(4).filter(line => !line.endsWith('exited')),
        ['0/3 starting', '0/3 ready', '0/1 stopping', '1/4 starting', '1/4 ready', '1/2 stopping']
      )
      await only(supervisor, 3, 4)
      t.deepEqual(exits.toSorted(), ['0/1 0', '1/2 0'])
      program(kind.fails(5), entry)
      await t.throwsAsync(supervisor.reload(), { code: NOT_READY, message: /slot 0.*code 5/ })
      await only(supervisor, 3, 4)
      t.is(exits.at(-1), '0/5 5')
      t.true(supervisor.workers.every(({ restarts }) => restarts === 0))
      program(kind.waits(), entry)
      await supervisor.reload()
      await only(supervisor, 6, 7)
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: scale: up, down, to the same, out of bounds; what does not get ready is taken back`, async t => {
    const entry = program(kind.waits())
    await supervising(t, kind.options(entry), async (supervisor, { of, exits }) => {
      await supervisor.start()
      for (const wrong of [0, -1, 1.5, 1025, Number.NaN, '2', undefined])
        await t.throwsAsync(supervisor.scale(wrong as number), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
      await supervisor.scale(1)
      await supervisor.scale(3)
      await only(supervisor, 1, 2, 3)
      await supervisor.scale(2)
      await only(supervisor, 1, 2)
      t.deepEqual(of(3), ['starting', 'ready', 'stopping', 'exited'])
      t.deepEqual(exits, ['2/3 0'])
      program(kind.fails(5), entry)
      await t.throwsAsync(supervisor.scale(3), { code: NOT_READY })
      t.is(supervisor.size, 2)
      await only(supervisor, 1, 2)
      program(kind.waits(), entry)
      await supervisor.scale(3) // what has failed before is nothing to it
      await only(supervisor, 1, 2, 5)
      program(kind.fails(5), entry)
      const failing = supervisor.scale(4).catch(() => program(kind.waits(), entry))
      const scaled = supervisor.scale(4)
      await failing
      t.is(supervisor.size, 4)
      await scaled
      t.is(supervisor.size, 4)
      await only(supervisor, 1, 2, 5, 7)
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: what is asked for at the same time happens one after the other`, async t => {
    await supervising(t, kind.options(program(kind.waits())), async (supervisor, { exits }) => {
      await supervisor.start()
      await Promise.all([supervisor.scale(2), supervisor.reload(), supervisor.scale(1), supervisor.reload()])
      await only(supervisor, 5)
      t.is(supervisor.size, 1)
      const asked = [supervisor.reload(), supervisor.scale(2)]
      const stopped = supervisor.stop()
      t.is(stopped, supervisor.stop(), 'twice: the same')
      for (const one of asked) await t.throwsAsync(one, STOPPED)
      await stopped
      t.deepEqual(exits.slice(0, 4).toSorted(), ['0/1 0', '0/3 0', '1/2 0', '1/4 0']) // they stop at the same time
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: what comes next does not wait for old workers that still stop; of one slot 4 stop at a time`, async t => {
    const inNode = kind.name === 'Node'
    await supervising(t, inNode ? {} : { command: [light(), '7', 'slow'] }, async (supervisor, { of, states }) => {
      await supervisor.start()
      const pids: number[] = []
      const slow: Promise<string>[] = []
      const reloads: Promise<void>[] = []
      const ended: number[] = []
      for (let id = 1; id <= 4; id++) {
        pids.push(supervisor.workers.at(-1)!.pid!)
        if (inNode) {
          slow.push(get(supervisor, 'http', '/slow'))
          await until(() => supervisor.workers.at(-1)!.requests === 1, 'the request')
        }
        reloads.push(supervisor.reload().then(() => void ended.push(id)))
        await until(() => of(id + 1).includes('ready') && of(id).includes('stopping'), `reload ${id}`)
      }
      await supervisor.scale(2)
      const scaled = supervisor.scale(1)
      if (!inNode) process.kill(supervisor.workers.find(({ slot }) => slot === 1)!.pid!, 'SIGUSR2')
      await scaled
      t.deepEqual(ended, [])
      t.deepEqual(
        supervisor.workers.map(({ state }) => state),
        ['stopping', 'stopping', 'stopping', 'stopping', 'ready']
      )
      const fifth = supervisor.reload() // there is no room for one more yet
      for (let round = 0; round < 20; round++) await turn()
      t.false(states.includes('0/7 starting'))
      process.kill(pids[0]!, 'SIGUSR2')
      if (inNode) t.regex(await slow[0]!, /^0 1 /)
      await reloads[0]
      await until(() => of(7).includes('ready'), 'the fifth')
      pids.push(supervisor.workers.find(({ id }) => id === 5)!.pid!)
      for (const pid of pids.slice(1, inNode ? 4 : 5)) process.kill(pid, 'SIGUSR2')
      for (const [index, answer] of (await Promise.all(slow)).entries()) t.regex(answer, new RegExp(`^0 ${index + 1} `))
      await Promise.all([...reloads, fifth])
      await only(supervisor, 7)
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: many reloads at once are two; each call hears of its own`, async t => {
    const entry = program(kind.waits())
    await supervising(t, kind.options(entry), async (supervisor, { states }) => {
      await supervisor.start()
      const first = supervisor.reload()
      await until(() => states.includes('0/2 starting'), 'the first')
      await Promise.all([first, supervisor.reload(), supervisor.reload(), supervisor.reload()])
      await only(supervisor, 3)
      program(kind.fails(5), entry)
      const failing = [supervisor.reload(), supervisor.reload()]
      for (const reload of failing) await t.throwsAsync(reload, { code: NOT_READY, message: /code 5/ })
      await only(supervisor, 3)
      t.is(states.filter(line => line.endsWith('starting')).length, 4)
    })
  })

for (const kind of KINDS)
  test(`${kind.name}: kill() ends at once what does not stop, also while stop() waits; asyncDispose stops`, async t => {
    await supervising(t, kind.options(program(kind.isDeaf)), async (supervisor, { exits, of }) => {
      await supervisor.start()
      const stopped = supervisor.stop()
      await until(() => of(1).at(-1) === 'stopping', 'that it is told')
      await supervisor.kill()
      await stopped
      t.deepEqual(exits, ['0/1 SIGKILL'])
      t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    })
    await supervising(t, kind.options(program(kind.waits())), async (supervisor, { exits, of }) => {
      await supervisor.start()
      await supervisor[Symbol.asyncDispose]()
      t.deepEqual(exits, ['0/1 0'])
      t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    })
  })
