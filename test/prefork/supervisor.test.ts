/** Starting, replacing, scaling and stopping: in every order, and what is left if it fails. */

import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { Descriptor } from '../../src/index.ts'
import { Supervisor, type SupervisorOptions } from '../../src/prefork/index.ts'
import { socketPath } from '../helpers/path.ts'
import { allOf, get, logOf, only, program, supervising, WAITS } from '../helpers/supervising.ts'
import { test, until } from '../helpers/test.ts'

const STOPPED = { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' }
const STATE = { code: 'ERR_PASSFD_SUPERVISOR_STATE' }
const NOT_READY = 'ERR_PASSFD_WORKER_NOT_READY'

test('start, serve, stop: each worker goes through its states in order, and the socket file goes', async t => {
  const path = socketPath()
  await supervising(t, { workers: 2, listeners: { http: { path } } }, async (supervisor, { states, exits, of }) => {
    t.deepEqual(supervisor.workers, [])
    t.throws(() => supervisor.address('http'), { code: 'ERR_PASSFD_LISTENER_UNKNOWN' })
    const starting = supervisor.start()
    await until(() => supervisor.workers.length === 2, 'two processes')
    t.like(supervisor.workers, [
      { slot: 0, id: 1, state: 'starting', restarts: 0, connections: 0, requests: 0 },
      { slot: 1, id: 2, state: 'starting' }
    ])
    await starting
    t.deepEqual(supervisor.addresses, { http: { path } })
    t.regex(await get(supervisor), /^[01] [12] \d+$/)
    await t.throwsAsync(supervisor.start(), { ...STATE, message: /start\(\).*running/ })
    await supervisor.stop()
    t.deepEqual([of(1), of(2)], Array(2).fill(['starting', 'ready', 'stopping', 'exited']))
    t.deepEqual(states.length, 8)
    t.deepEqual(exits.toSorted(), ['0/1 0', '1/2 0'])
    t.false(existsSync(path))
    await t.throwsAsync(supervisor.start(), STATE)
    t.throws(() => supervisor.reload(), STATE)
    t.throws(() => supervisor.scale(3), STATE)
    await supervisor.stop() // and once more
  })
})

const CRASHES: Record<string, { entry: string; says: RegExp; spawn?: object; code: number | string | null }> = {
  'throws before it joins': { entry: "throw new Error('no config')", says: /exited with code 1\./, code: 1 },
  'throws when it has joined': {
    entry: "await joinSupervisor(); throw new RangeError('no config')",
    says: /it failed with RangeError: no config \(exited with code 1\)/,
    code: 1
  },
  'rejects and nobody catches it': {
    entry: "await joinSupervisor(); Promise.reject(new Error('lost')); setInterval(() => {}, 1000)",
    says: /it failed with Error: lost \(exited with code 1\)/,
    code: 1
  },
  'exits with a code': { entry: 'process.exit(3)', says: /exited with code 3\./, code: 3 },
  'exits with 0': { entry: 'process.exit(0)', says: /exited with code 0\./, code: 0 },
  'kills itself': { entry: "process.kill(process.pid, 'SIGKILL')", says: /was killed by SIGKILL/, code: 'SIGKILL' },
  'is no JavaScript': { entry: 'this is none', says: /exited with code 1\./, code: 1 },
  'gets an option that Node does not know': {
    entry: WAITS,
    says: /exited with code 9 \(in Node: an option/,
    spawn: { execArgv: ['--no-such-option'] },
    code: 9
  }
}

test('start() rejects with what became of a worker, and leaves nothing behind', async t => {
  await allOf(
    Object.entries(CRASHES).map(async ([what, { entry, says, spawn = {}, code }]) => {
      const path = socketPath()
      const supervisor = new Supervisor({
        entry: program(entry),
        listeners: { http: { path } },
        workers: 1,
        spawn: { execArgv: [], ...spawn, env: { ...process.env, NODE_OPTIONS: '--no-warnings' } }
      })
      const { exits } = logOf(supervisor)
      const error = await t.throwsAsync<NodeJS.ErrnoException>(supervisor.start(), undefined, what)
      t.is(error?.code, NOT_READY, what)
      t.regex(error!.message, says, what)
      t.deepEqual(exits, [`0/1 ${code}`], what)
      t.false(existsSync(path), what)
      t.deepEqual(supervisor.workers, [], what)
    })
  )
})

test('an entry that is missing, and a program that is', async t => {
  await supervising(t, { entry: '/nowhere/worker.mjs' }, async supervisor => {
    await t.throwsAsync(supervisor.start(), { code: NOT_READY, message: /exited with code 1/ })
  })
  await supervising(t, { command: ['/nowhere/worker'] }, async (supervisor, { exits }) => {
    await t.throwsAsync(supervisor.start(), { code: NOT_READY, message: /pid none.*ENOENT/ })
    t.deepEqual(exits, ['0/1 null'])
  })
  await supervising(t, { spawn: { cwd: '/nowhere' } }, async (supervisor, { exits }) => {
    await t.throwsAsync(supervisor.start(), { code: NOT_READY, message: /pid none.*ENOENT.*chdir/ })
    t.deepEqual(exits, ['0/1 null'])
  })
})

test('a worker that does not get ready in time is killed', async t => {
  const entry = program('await joinSupervisor(); setInterval(() => {}, 1000)')
  await supervising(t, { entry, readyTimeout: 1000 }, async (supervisor, { exits, of }) => {
    await t.throwsAsync(supervisor.start(), {
      code: NOT_READY,
      message: /1000 ms \(readyTimeout\) \(was killed by SIGKILL/
    })
    t.deepEqual(exits, ['0/1 SIGKILL'])
    t.deepEqual(of(1), ['starting', 'exited'])
  })
})

test('one that fails ends the others, too', async t => {
  const entry = program(
    `${WAITS}; if (worker.slot === 1) process.exit(4)`.replace(
      'await worker.ready()',
      'if (worker.slot === 0) await worker.ready()'
    )
  )
  await supervising(t, { entry, workers: 2 }, async (supervisor, { exits }) => {
    await t.throwsAsync(supervisor.start(), { code: NOT_READY, message: /slot 1 .*exited with code 4/ })
    t.is(exits.length, 2)
  })
})

test('EADDRINUSE at start: what was opened before is closed', async t => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const path = socketPath()
  const given = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  for (const balance of ['per-worker', 'shared'] as const) {
    const listeners = { first: { path }, http: { port, host: '127.0.0.1' }, last: { path: socketPath() } }
    await supervising(t, { listeners, balance }, async (supervisor, { states }) => {
      await t.throwsAsync(supervisor.start(), { code: 'EADDRINUSE' })
      t.deepEqual(states, [])
      t.false(existsSync(path))
    })
  }
  // A Descriptor is moved in whatever comes of it
  const listeners = { http: { port, host: '127.0.0.1' }, given }
  await supervising(t, { listeners }, async supervisor => {
    await t.throwsAsync(supervisor.start(), { code: 'EADDRINUSE' })
    t.true(given.closed)
  })
  taken.close()
  await once(taken, 'close')
})

test('an admin path that is taken: the listeners are closed again', async t => {
  const path = socketPath()
  const taken = createServer().listen(path)
  await once(taken, 'listening')
  await supervising(t, { admin: path }, async supervisor => {
    await t.throwsAsync(supervisor.start(), { code: 'EADDRINUSE' })
  })
  taken.close()
  await once(taken, 'close')
})

test('a worker that dies while others are still starting is replaced', async t => {
  const entry = program(
    `const worker = await joinSupervisor()
    if (worker.id === 2) setTimeout(() => worker.ready(), 1500)
    else await worker.ready()
    if (worker.id === 1) setTimeout(() => process.exit(1), 1)
    setInterval(() => {}, 1000)`
  )
  await supervising(t, { entry, workers: 2 }, async (supervisor, { exits }) => {
    await supervisor.start()
    t.deepEqual(exits, ['0/1 1'])
    await only(supervisor, 3, 2)
    t.like(supervisor.workers, [{ restarts: 1 }, { restarts: 0 }])
  })
})

test('stop() while it starts: graceful, and start() says so', async t => {
  const entry = program('const worker = await joinSupervisor(); if (worker.slot === 0) await worker.ready()')
  await supervising(t, { entry, workers: 2 }, async (supervisor, { of, exits }) => {
    const starting = supervisor.start()
    await until(() => supervisor.workers.some(({ state }) => state === 'ready'), 'one that is ready')
    await Promise.all([t.throwsAsync(starting, STOPPED), supervisor.stop()])
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
    t.deepEqual(of(2), ['starting', 'stopping', 'exited'])
    t.true(exits.includes('0/1 0'), 'the one that was ready has stopped gracefully')
  })
  // Before the listeners are there
  await supervising(t, {}, async (supervisor, { states }) => {
    const starting = supervisor.start()
    await Promise.all([t.throwsAsync(starting, STOPPED), supervisor.stop()])
    t.deepEqual(states, [])
  })
  await supervising(t, {}, async supervisor => {
    await supervisor.stop()
    await t.throwsAsync(supervisor.start(), STATE)
  })
})

test('reload: new code, one by one; what does not get ready changes nothing', async t => {
  const entry = program(WAITS)
  await supervising(t, { entry, workers: 2 }, async (supervisor, { states, exits }) => {
    await supervisor.start()
    await supervisor.reload()
    t.deepEqual(
      states.slice(4).filter(line => !line.endsWith('exited')),
      ['0/3 starting', '0/3 ready', '0/1 stopping', '1/4 starting', '1/4 ready', '1/2 stopping']
    )
    await only(supervisor, 3, 4)
    t.deepEqual(exits.toSorted(), ['0/1 0', '1/2 0'])
    program('process.exit(5)', entry)
    await t.throwsAsync(supervisor.reload(), { code: NOT_READY, message: /slot 0.*code 5/ })
    await only(supervisor, 3, 4)
    t.is(exits.at(-1), '0/5 5')
    t.true(supervisor.workers.every(({ restarts }) => restarts === 0))
    program(WAITS, entry)
    await supervisor.reload()
    await only(supervisor, 6, 7)
  })
})

test('the old one dies while its successor fails: the slot is filled as after any death', async t => {
  const entry = program(WAITS)
  await supervising(t, { entry }, async (supervisor, { exits }) => {
    await supervisor.start()
    const pid = supervisor.workers[0]!.pid!
    program('await joinSupervisor()', entry)
    const reloading = supervisor.reload()
    await until(() => supervisor.workers.length === 2, 'the successor')
    process.kill(pid, 'SIGKILL')
    await until(() => exits.length === 1, 'the end of the old one')
    program(WAITS, entry)
    process.kill(supervisor.workers[0]!.pid!, 'SIGKILL')
    await t.throwsAsync(reloading, { code: NOT_READY })
    t.deepEqual(exits, ['0/1 SIGKILL', '0/2 SIGKILL'])
    await only(supervisor, 3)
    t.is(supervisor.workers[0]!.restarts, 2)
  })
})

test('scale: up, down, to the same, out of bounds; what does not get ready is taken back', async t => {
  const entry = program(WAITS)
  await supervising(t, { entry }, async (supervisor, { of, exits }) => {
    await supervisor.start()
    for (const wrong of [0, -1, 1.5, 1025, Number.NaN, '2', undefined])
      t.throws(() => supervisor.scale(wrong as number), { code: 'ERR_PASSFD_INVALID_ARGUMENT' })
    await supervisor.scale(1)
    await supervisor.scale(3)
    await only(supervisor, 1, 2, 3)
    await supervisor.scale(2)
    await only(supervisor, 1, 2)
    t.deepEqual(of(3), ['starting', 'ready', 'stopping', 'exited'])
    t.deepEqual(exits, ['2/3 0'])
    program('process.exit(5)', entry)
    await t.throwsAsync(supervisor.scale(3), { code: NOT_READY })
    t.is(supervisor.size, 2)
    await only(supervisor, 1, 2)
    program(WAITS, entry)
    await supervisor.scale(3) // what has failed before is nothing to it
    await only(supervisor, 1, 2, 5)
  })
})

test('what is asked for at the same time happens one after the other', async t => {
  await supervising(t, { entry: program(WAITS) }, async (supervisor, { exits }) => {
    await supervisor.start()
    await Promise.all([supervisor.scale(2), supervisor.reload(), supervisor.scale(1), supervisor.reload()])
    await only(supervisor, 5)
    t.is(supervisor.size, 1)
    const asked = [supervisor.reload(), supervisor.scale(2)]
    const stopped = supervisor.stop()
    t.is(stopped, supervisor.stop(), 'twice: the same')
    for (const one of asked) await t.throwsAsync(one, STOPPED)
    await stopped
    t.deepEqual(exits.slice(0, 4), ['0/1 0', '1/2 0', '1/4 0', '0/3 0'])
  })
})

test('kill() ends at once what does not stop, also while stop() waits; asyncDispose stops', async t => {
  const deaf = program(
    `const worker = await joinSupervisor({ signals: false })
    process.on('SIGTERM', () => {})
    worker.onStop(() => new Promise(() => {}))
    await worker.ready()`
  )
  await supervising(t, { entry: deaf }, async (supervisor, { exits, of }) => {
    await supervisor.start()
    const stopped = supervisor.stop()
    await until(() => of(1).at(-1) === 'stopping', 'that it is told')
    await supervisor.kill()
    await stopped
    t.deepEqual(exits, ['0/1 SIGKILL'])
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
  })
  await supervising(t, { entry: program(WAITS) }, async (supervisor, { exits, of }) => {
    await supervisor.start()
    await supervisor[Symbol.asyncDispose]()
    t.deepEqual(exits, ['0/1 0'])
    t.deepEqual(of(1), ['starting', 'ready', 'stopping', 'exited'])
  })
})

test('the policy is asked after every death; one that gives up is told, and run() rejects when no slot is left', async t => {
  const entry = program(`process.on('SIGUSR2', () => process.exit(7)); ${WAITS}`)
  const asked: string[] = []
  const restart: SupervisorOptions['restart'] = deaths => {
    const { slot, booted, uptime } = deaths.at(-1)!
    asked.push(`${slot} ${booted} ${uptime > 0}`)
    return asked.length === 1 ? { restart: true, delay: 0 } : { restart: false, reason: 'it is enough' }
  }
  await supervising(t, { entry, workers: 2, restart }, async (supervisor, { told, exits }) => {
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

test('a policy that throws, or answers nonsense, has given up; one that wants to wait for ever waits', async t => {
  const entry = program(`process.on('SIGUSR2', () => process.exit(7)); ${WAITS}`)
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
      supervising(t, { entry, restart: restart as never }, async (supervisor, { told }) => {
        const running = supervisor.run({ signals: false })
        await only(supervisor, 1)
        process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
        await t.throwsAsync(running, { code: 'ERR_PASSFD_WORKERS_DIE', message: says })
        t.is(told.length, 1)
      })
    )
  )
  const restart = () => ({ restart: true, delay: Number.POSITIVE_INFINITY }) as const
  await supervising(t, { entry, restart }, async (supervisor, { exits, states }) => {
    await supervisor.start()
    process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
    await until(() => exits.length === 1, 'its end')
    await new Promise(resolve => setTimeout(resolve, 50))
    t.is(states.at(-1), '0/1 exited')
  })
})
