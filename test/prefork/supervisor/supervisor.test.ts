/** Starting and stopping: in every order, and what is left if it fails. */

import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer } from 'node:net'
import { Descriptor } from '../../../src/index.ts'
import { Supervisor } from '../../../src/prefork/index.ts'
import { patched } from '../../helpers/channels.ts'
import { isFull } from '../../helpers/full.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import {
  allOf,
  get,
  KINDS,
  type Kind,
  light,
  logOf,
  only,
  program,
  supervising,
  WAITS
} from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

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
    await t.throwsAsync(supervisor.reload(), STATE)
    await t.throwsAsync(supervisor.scale(3), STATE)
    await supervisor.stop() // and once more
  })
})

test('a listener that no worker serves is told of, and a supervisor that has started can be run', async t => {
  const entry = program(WAITS)
  const supervisor = new Supervisor({
    entry,
    listeners: { http: { port: 0 }, dns: { type: 'udp4', port: 0 } },
    workers: 2
  })
  const warnings: Error[] = []
  const emitWarning = process.emitWarning
  process.emitWarning = ((warning: Error) => warnings.push(warning)) as never
  try {
    await supervisor.start()
  } finally {
    process.emitWarning = emitWarning
  }
  t.deepEqual(
    warnings.map(warning => (warning as NodeJS.ErrnoException).code),
    Array(2).fill('ERR_PASSFD_UNSERVED')
  )
  t.regex(warnings[0]!.message, /listener http:.*worker\.listen\(\)/)
  const stopped = supervisor.run({ signals: false })
  await supervisor.stop()
  await stopped

  await supervising(t, { entry }, async told => {
    const events: string[] = []
    told.on('unserved', name => events.push(`unserved ${name}`))
    told.on('started', () => events.push('started'))
    await told.start()
    t.deepEqual(events, ['started', 'unserved http'])
  })
})

/** `command`: a program of the shell, which ends in the same way for less; a full run has that in Node, too. */
const CRASHES: Record<
  string,
  { entry: string; command?: string; says: RegExp; spawn?: object; code: number | string | null }
> = {
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
  'exits with a code': { entry: 'process.exit(3)', command: 'exit 3', says: /exited with code 3\./, code: 3 },
  'exits with 0': {
    entry: 'process.exit(0)',
    says: /exited with code 0 and has not called joinSupervisor\(\)\./,
    code: 0
  },
  'kills itself': {
    entry: "process.kill(process.pid, 'SIGKILL')",
    command: 'kill -KILL $$',
    says: /was killed by SIGKILL/,
    code: 'SIGKILL'
  },
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
    Object.entries(CRASHES).map(async ([what, { entry, command, says, spawn = {}, code }]) => {
      const path = socketPath()
      const supervisor = new Supervisor({
        ...(command === undefined || isFull
          ? {
              entry: program(entry),
              spawn: { execArgv: [], ...spawn, env: { ...process.env, NODE_OPTIONS: '--no-warnings' } }
            }
          : { command: ['/bin/sh', '-c', command] }),
        listeners: { http: { path } },
        workers: 1
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
    await t.throwsAsync(supervisor.start(), {
      code: NOT_READY,
      message: /pid none.*\/nowhere\/worker\.mjs does not exist/
    })
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
  await supervising(t, { entry, readyTimeout: 300 }, async (supervisor, { exits, of }) => {
    await t.throwsAsync(supervisor.start(), {
      code: NOT_READY,
      message: /300 ms \(readyTimeout\), so passfd killed it/
    })
    t.deepEqual(exits, ['0/1 SIGKILL'])
    t.deepEqual(of(1), ['starting', 'exited'])
  })
})

test('a program that is no worker: start() says what it has not done', async t => {
  const programs: [string, number, RegExp][] = [
    ['setInterval(() => {}, 1000)', 500, /not called joinSupervisor\(\) within 500 ms/],
    ['await joinSupervisor(); process.exit()', 0, /exited with code 0 and has not called worker\.ready\(\)/]
  ]
  await Promise.all(
    programs.map(([source, readyTimeout, message]) =>
      supervising(t, { entry: program(source), readyTimeout, workers: 1 }, async supervisor => {
        await t.throwsAsync(supervisor.start(), { code: NOT_READY, message })
      })
    )
  )
})

/** Of two workers one gets ready, and waits; the other one does what is said here. */
function oneIsReady(kind: Kind, other: { inNode: string; inC: string }): string {
  return program(
    kind.name === 'Node'
      ? `const worker = await joinSupervisor(); if (worker.slot === 0) await worker.ready(); else ${other.inNode}`
      : `mkdir '${temporaryPath('first')}' 2> /dev/null && exec ${light()}; ${other.inC}`
  )
}

for (const kind of KINDS)
  test(`${kind.name}: one that fails ends the others, too`, async t => {
    const entry = oneIsReady(kind, { inNode: 'process.exit(4)', inC: 'exit 4' })
    await supervising(t, { ...kind.options(entry), workers: 2 }, async (supervisor, { exits }) => {
      const error = await t.throwsAsync(supervisor.start(), { code: NOT_READY })
      const [slot] = exits.find(line => line.endsWith(' 4'))!
      t.regex(error!.message, new RegExp(`slot ${slot} .*exited with code 4`))
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

for (const kind of KINDS)
  test(`${kind.name}: stop() while it starts: graceful, and start() says so`, async t => {
    const entry = oneIsReady(kind, { inNode: '{}', inC: 'exec sleep 60' })
    await supervising(t, { ...kind.options(entry), workers: 2 }, async (supervisor, { of, exits }) => {
      const starting = supervisor.start()
      const ready = () => supervisor.workers.find(({ state }) => state === 'ready')
      await until(() => ready() !== undefined, 'one that is ready')
      const { slot, id } = ready()!
      await Promise.all([t.throwsAsync(starting, STOPPED), supervisor.stop()])
      t.deepEqual(of(id), ['starting', 'ready', 'stopping', 'exited'])
      t.deepEqual(of(3 - id), ['starting', 'stopping', 'exited'])
      t.true(exits.includes(`${slot}/${id} 0`), 'the one that was ready has stopped gracefully')
    })
  })

test('stop() before the listeners are there, and before start()', async t => {
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

test('no descriptors for another worker: start() rejects; later it is told, and tried again', async t => {
  const full = () => () => -24 // EMFILE
  await supervising(t, {}, async supervisor => {
    await patched('socketpair', full, async () => {
      await t.throwsAsync(supervisor.start(), { code: 'EMFILE' })
    })
  })
  const restart = () => ({ restart: true, delay: 0 }) as const
  await supervising(t, { command: [light()], restart }, async (supervisor, { told }) => {
    await supervisor.start()
    await patched('socketpair', full, async () => {
      await t.throwsAsync(supervisor.reload(), { code: 'EMFILE' })
      await only(supervisor, 1)
      process.kill(supervisor.workers[0]!.pid!, 'SIGKILL')
      await until(() => told.length === 1, 'that there are none')
    })
    t.regex(told[0]!, /reloadFailed .*EMFILE/)
    await until(() => supervisor.workers[0]?.state === 'ready', 'the next try')
  })
})
