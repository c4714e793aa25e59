/** How and where workers are started: as whom, from a worker thread, by two supervisors. */
import { once } from 'node:events'
import * as http from 'node:http'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../../src/index.ts'
import { isFull } from '../../helpers/full.ts'
import { startFixture } from '../../helpers/process.ts'
import { fixture, get, KINDS, light, only, supervising } from '../../helpers/supervising.ts'
import { test } from '../../helpers/test.ts'

const NOBODY = 65_534

test('cwd, env, args, execArgv; every worker has a session of its own', async t => {
  const spawn = {
    cwd: new URL('file:///usr'),
    env: { PATH: '/usr/bin', MINE: 'a=b' },
    args: ['one', '--two', ''],
    execArgv: ['--no-warnings', '--title=worker']
  }
  // The entry is where this process is, not where the worker is
  await supervising(t, { entry: fileURLToPath(fixture('who')), spawn }, async supervisor => {
    let told: any
    supervisor.on('state', ({ state, channel }) => {
      if (state !== 'starting') return
      channel.serve(({ value }) => {
        told = value
        return Descriptor.openSync('/dev/null')
      })
    })
    await supervisor.start()
    const { args, execArgv, env, cwd, leads } = told
    t.deepEqual([args, execArgv, cwd, leads], [spawn.args, spawn.execArgv, '/usr', true])
    t.deepEqual(env, spawn.env)
  })
})

test('(u) workers of another user: all of it works, the channel and its descriptors, too', async t => {
  const spawn = { uid: NOBODY, gid: NOBODY, cwd: '/' }
  for (const balance of ['per-worker', { dispatch: 'round-robin' }] as const)
    await supervising(t, { entry: fixture('who'), spawn, balance, hangTimeout: 400 }, async (supervisor, { exits }) => {
      const told: any[] = []
      supervisor.on('state', ({ state, channel }) => {
        if (state !== 'starting') return
        channel.serve(({ value }) => {
          told.push(value)
          return Descriptor.openSync('/dev/null')
        })
      })
      await supervisor.start()
      t.like(told[0], { uid: NOBODY, gid: NOBODY })
      t.deepEqual(
        told[0].groups.filter((group: number) => group !== NOBODY),
        []
      )
      t.is(await get(supervisor), `${NOBODY} device`)
      if (balance === 'per-worker' || isFull) {
        await supervisor.reload()
        process.kill(supervisor.workers[0]!.pid!, 'SIGSTOP') // and what it is killed for
        await only(supervisor, 3)
        t.is(await get(supervisor), `${NOBODY} device`)
      }
      const last = supervisor.workers[0]!.id
      await supervisor.stop()
      t.deepEqual(exits, last === 1 ? ['0/1 0'] : ['0/1 0', '0/2 SIGKILL', '0/3 0'])
    })
})

test('a Supervisor in a worker thread', async t => {
  const options = {
    entry: `${fixture('obeys')}`,
    listeners: { http: { port: 0, host: '127.0.0.1' } },
    workers: 1,
    idleGrace: 50,
    spawn: { execArgv: [] }
  }
  const { line, child, exit } = startFixture('prefork-thread', [JSON.stringify(options)])
  const port = Number(await line())
  const [response] = await once(http.get({ port, host: '127.0.0.1', agent: false }), 'response')
  t.regex(await text(response), /^0 1 \d+$/)
  child.stdin!.write('reload\n')
  t.is(await line(), '2 ready')
  child.stdin!.end('stop\n')
  t.is(await line(), '')
  t.is(await line(), 'thread 0')
  t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
})

for (const kind of KINDS)
  test(`${kind.name}: two Supervisors in one process have nothing to do with each other`, async t => {
    const options = kind.name === 'Node' ? {} : { command: [light()] as const }
    await supervising(t, options, async (one, first) => {
      await supervising(t, options, async (two, second) => {
        await Promise.all([one.start(), two.start()])
        t.not((one.address('http') as any).port, (two.address('http') as any).port)
        process.kill(one.workers[0]!.pid!, 'SIGKILL')
        await only(one, 2)
        await two.stop()
        t.deepEqual([first.exits, second.exits], [['0/1 SIGKILL'], ['0/1 0']])
      })
      await only(one, 2)
      if (kind.name === 'Node') t.regex(await get(one), /^0 2 /)
    })
  })
