/** How and where workers are started: as whom, from a worker thread, by two supervisors. */
import { on, once } from 'node:events'
import * as http from 'node:http'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { Descriptor } from '../../../src/index.ts'
import type { Supervisor } from '../../../src/prefork/index.ts'
import { fixture, get, KINDS, light, only, supervising } from '../../helpers/supervising.ts'
import { test, testInCi } from '../../helpers/test.ts'

const NOBODY = 65_534

interface Told {
  uid: number
  gid: number
  groups: number[]
  cwd: string
  args: string[]
  execArgv: string[]
  env: NodeJS.ProcessEnv
  leads: boolean
}

/** What the fixture `who` tells of each worker that starts. */
function follow(supervisor: Supervisor): Told[] {
  const told: Told[] = []
  supervisor.on('state', ({ state, channel }) => {
    if (state !== 'starting') return
    channel.serve(({ value }) => {
      told.push(value as Told)
      return Descriptor.openSync('/dev/null')
    })
  })
  return told
}

test('(u) workers of another user: all of it works, the channel and its descriptors, too; cwd, env, args, execArgv; each leads a session', async t => {
  const spawn = {
    uid: NOBODY,
    gid: NOBODY,
    cwd: new URL('file:///usr'),
    env: { PATH: '/usr/bin', MINE: 'a=b' },
    args: ['one', '--two', ''],
    execArgv: ['--no-warnings', '--title=worker']
  }
  // The entry is where this process is, not where the worker is
  const options = { entry: fileURLToPath(fixture('who')), spawn, hangTimeout: 4000 }
  await supervising(t, options, async (supervisor, { exits }) => {
    const told = follow(supervisor)
    await supervisor.start()
    const { uid, gid, groups, args, execArgv, env, cwd, leads } = told[0]!
    t.deepEqual([args, execArgv, cwd, leads], [spawn.args, spawn.execArgv, '/usr', true])
    t.deepEqual(env, spawn.env)
    t.deepEqual([uid, gid], [NOBODY, NOBODY])
    t.deepEqual(
      groups.filter(group => group !== NOBODY),
      []
    )
    t.is(await get(supervisor), `${NOBODY} device`)
    await supervisor.reload()
    process.kill(supervisor.workers[0]!.pid!, 'SIGSTOP') // and what it is killed for
    await only(supervisor, 3)
    t.is(await get(supervisor), `${NOBODY} device`)
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 0', '0/2 SIGKILL', '0/3 0'])
  })
})

test('(u) a worker of another user is told to accept', async t => {
  const spawn = { uid: NOBODY, gid: NOBODY, cwd: '/' }
  const balance = { dispatch: 'round-robin' } as const
  await supervising(t, { entry: fixture('who'), spawn, balance }, async (supervisor, { exits }) => {
    const told = follow(supervisor)
    await supervisor.start()
    t.like(told[0], { uid: NOBODY, gid: NOBODY })
    t.is(await get(supervisor), `${NOBODY} device`)
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 0'])
  })
})

testInCi('a Supervisor in a worker thread', async t => {
  const options = {
    entry: `${fixture('obeys')}`,
    listeners: { http: { port: 0, host: '127.0.0.1' } },
    workers: 1,
    idleGrace: 50,
    spawn: { execArgv: [] }
  }
  const thread = new Worker(fixture('thread'), { workerData: JSON.stringify(options), stderr: true, execArgv: [] })
  const exit = once(thread, 'exit')
  const stderr = text(thread.stderr)
  const said = on(thread, 'message')
  const next = async () => (await said.next()).value[0]
  const port = Number(await next())
  const [response] = await once(http.get({ port, host: '127.0.0.1', agent: false }), 'response')
  t.regex(await text(response), /^0 1 \d+$/)
  thread.postMessage('reload')
  t.is(await next(), '2 ready')
  thread.postMessage('stop')
  t.is(await next(), '')
  t.deepEqual(await exit, [0])
  t.is(await stderr, '')
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
