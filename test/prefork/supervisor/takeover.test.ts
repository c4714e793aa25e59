/** A supervisor in the place of another one: with every balance, from both sides, and whatever dies when. */

import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { createServer } from 'node:net'
import type { ExecutionContext } from 'ava'
import { connect } from '../../../src/channel/connect.ts'
import type { Balance } from '../../../src/prefork/balance.ts'
import type { AdminStatus, SupervisorOptions } from '../../../src/prefork/index.ts'
import { isFull } from '../../helpers/full.ts'
import { inC } from '../../helpers/in-c.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { childrenOf, gone, resume, stopped, suspend } from '../../helpers/processes.ts'
import { answerAt, first, naming, seated } from '../../helpers/seats.ts'
import { answers, client, lanesOf, NAMES, portOf, queued, type Side, side } from '../../helpers/supersession.ts'
import { light, program } from '../../helpers/supervising.ts'
import { type Side as Process, startSupervisor } from '../../helpers/takeover.ts'
import { test, testFull, testInCi, until } from '../../helpers/test.ts'

const BALANCES = {
  'per-worker': 'per-worker',
  shared: 'shared',
  'round-robin': { dispatch: 'round-robin' },
  // To the worker in slot 1, where there is one
  route: { dispatch: ({ head, ended }) => (head.length === 0 && !ended ? 'more' : 1) }
} satisfies Record<string, Balance>

type Name = keyof typeof BALANCES

/** A worker in C that answers as that in slot 0 of `side` does, for sides that only have to be there: it knows nothing of takeovers, and accepts at once. */
const inPlainC = (name: string): Pick<SupervisorOptions, 'command'> => ({ command: [inC('prefork-worker'), name] })

/** The supervisors, one after the other. While each takes over, the workers of the one before are stopped, so that clients wait in the lanes' queues. */
async function walk(t: ExecutionContext, steps: readonly (readonly [balance: Name, workers: number])[]): Promise<void> {
  const path = temporaryPath('supervisor')
  let port = 0
  let lanes = 0
  let before: (Side & { balance: Name }) | undefined
  for (const [index, [balance, workers]] of steps.entries()) {
    const what = `${steps[index - 1]?.join(' ')} → ${balance} ${workers}`
    const name = `${balance}-${index}`
    const next = side(t, path, name, { balance: BALANCES[balance], workers })
    if (before === undefined) await next.supervisor.start()
    else {
      const pids = before.supervisor.workers.map(({ pid }) => pid!)
      await suspend(...pids)
      const waiting = await Promise.all(Array.from({ length: 12 }, () => client(port)))
      await next.supervisor.start()
      // These predecessors may have accepted some, and their own workers answer them
      const accepts = before.balance === 'route' || (before.balance === 'round-robin' && lanes > 1)
      if (accepts) resume(...pids)
      const all = await Promise.all(waiting.map(({ answer }) => answer))
      if (!accepts) resume(...pids)
      t.true(
        all.every(one => one.startsWith(`${name} `) || (accepts && one !== '')),
        `${what}: ${all}`
      )
      await before.supervisor.stop()
      t.deepEqual([before.supervisor.phase, before.reports], ['stopped', []], what)
    }
    port = portOf(next.supervisor)
    lanes = Math.max(lanes, balance === 'per-worker' ? workers : 1)
    t.is(lanesOf(port), lanes, what)
    const all = await answers(port, 40)
    const slots = new Set(all.map(one => one.split(' ')[1]))
    t.true(
      all.every(one => one.startsWith(`${name} `)),
      `${what}: ${all}`
    )
    if (balance === 'route' && workers > 1) t.deepEqual([...slots], ['1'], what)
    if (balance === 'per-worker' || balance === 'round-robin') t.is(slots.size, workers, what)
    before = { ...next, balance }
  }
  await before!.supervisor.stop()
  t.is(lanesOf(port), 0)
  t.deepEqual(before!.reports, [])
}

const names = Object.keys(BALANCES) as Name[]
/** Each balance against each, with fewer workers and with more. */
const pairs = names.flatMap(one => names.flatMap(other => [1, 3].map(count => [on(one, count), on(other, 4 - count)])))
const walks = isFull
  ? pairs
  : [[on('per-worker', 2), on('route', 2), on('shared', 1), on('round-robin', 1), on('per-worker', 3)]]

function on(balance: Name, workers: number): readonly [Name, number] {
  return [balance, workers]
}

for (const steps of walks)
  testInCi(
    `all lanes are kept and served, and who waits in one is answered: ${steps.map(step => step.join(' ')).join(', ')}`,
    t => walk(t, steps)
  )

// --- one at a time

async function status(path: string): Promise<AdminStatus> {
  const channel = await connect<any, any>(path)
  const answer = await channel.request<AdminStatus>({ command: 'status' })
  await channel.close()
  return answer
}

test('the admin path is answered before, during and after, by whoever serves', async t => {
  const path = temporaryPath('supervisor')
  const admin = temporaryPath('admin')
  const one = side(t, path, 'one', { admin, command: [light(), '0', 'slow'] })
  const two = side(t, path, 'two', { admin, command: [light()], workers: 2 })
  await one.supervisor.start()
  const [kept] = one.supervisor.workers
  const channel = await connect<any, any>(admin)
  const during: Promise<AdminStatus>[] = []
  const ask = (): void => void during.push(status(admin))
  subscribe('passfd:takeover:step', ask)
  await two.supervisor.start()
  unsubscribe('passfd:takeover:step', ask)
  t.deepEqual(
    (await Promise.all(during)).map(({ size }) => size).filter(size => size !== 1 && size !== 2),
    []
  )
  t.is((await during[0]!).size, 1)
  t.true(during.length > 4)
  // The predecessor drains, and its own channels go on
  for (let i = 0; i < 5; i++) t.like(await status(admin), { size: 2, phase: 'running' })
  t.like(await channel.request({ command: 'status' }), { size: 1, phase: 'stopping' })
  const closed = once(channel, 'close')
  process.kill(kept!.pid!, 'SIGUSR2')
  await one.supervisor.stop()
  await closed
  t.like(await status(admin), { size: 2, phase: 'running' })

  // One with another admin path does not take this one
  const other = temporaryPath('admin')
  const three = side(t, path, 'three', { admin: other, command: [light()] })
  await three.supervisor.start()
  t.like(await status(other), { size: 1 })
  await two.supervisor.stop()
  await t.throwsAsync(status(admin), { code: 'ECONNREFUSED' })
  await three.supervisor.stop()
})

test('socket files stay at a takeover, and a stop without a successor removes them', async t => {
  const [path, admin, web] = [temporaryPath('supervisor'), temporaryPath('admin'), temporaryPath('web')]
  const there = () => [path, admin, web].map(each => statSync(each, { throwIfNoEntry: false })?.ino)
  const options = { admin, command: [light()] as [string], listeners: { web: { path: web } } }
  const one = side(t, path, 'one', options)
  const two = side(t, path, 'two', options)
  await one.supervisor.start()
  const files = there()
  t.false(files.includes(undefined))
  await two.supervisor.start()
  await one.supervisor.stop()
  t.deepEqual(there(), files)
  await two.supervisor.stop()
  t.deepEqual(there(), [undefined, undefined, undefined])
})

test('what the supervisor has accepted and no worker of its own can have is served by its successor', async t => {
  const path = temporaryPath('supervisor')
  const restart = () => ({ restart: true as const, delay: 1_000_000 })
  const one = side(t, path, 'one', { balance: BALANCES.route, restart })
  const two = side(t, path, 'two', { balance: BALANCES.shared })
  await one.supervisor.start()
  const pid = one.supervisor.workers[0]!.pid!
  await suspend(pid)
  const clients = await Promise.all(Array.from({ length: 3 }, () => client(portOf(one.supervisor))))
  // Accepted: the kernel has none in the queue any more
  await until(() => lanesOf(portOf(one.supervisor)) === 1 && queued(portOf(one.supervisor)) === 0, 'an empty queue')
  process.kill(pid, 'SIGKILL')
  await once(one.supervisor, 'exit')
  await two.supervisor.start()
  t.deepEqual(await Promise.all(clients.map(({ answer }) => answer)), ['two 0', 'two 0', 'two 0'])
  await one.supervisor.stop()
  await two.supervisor.stop()
})

test('a seat is replaced by a supervisor, and that by a seat; the backlog is that of whoever serves', async t => {
  const path = temporaryPath('supervisor')
  const admin = temporaryPath('admin')
  const { seat, port } = await first(path, { listeners: { http: { port: 0, host: '127.0.0.1', backlog: 7 } } })
  const one = side(t, path, 'one', { workers: 2, admin })
  await one.supervisor.start()
  await seat.ended
  t.is(lanesOf(port), 2)
  t.true((await answers(port, 10)).every(answer => answer.startsWith('one ')))
  t.deepEqual(one.reports, ['options'])
  const second = await seated({ path, listeners: { http: { port, host: '127.0.0.1' } } })
  t.deepEqual([second.seat.names, second.reports], [['http'], []])
  await second.seat.listen('http', naming('second'))
  await second.seat.ready()
  await one.supervisor.stop()
  t.is(lanesOf(port), 2)
  for (let i = 0; i < 10; i++) t.is(await answerAt(port), 'second')
  await t.throwsAsync(connect(admin), { code: 'ECONNREFUSED' })
  await second.seat.stop()
  t.is(lanesOf(port), 0)
})

test('no lane is opened while a candidate may have all of them, and every one afterwards', async t => {
  const path = temporaryPath('supervisor')
  const one = side(t, path, 'one')
  await one.supervisor.start()
  const port = portOf(one.supervisor)
  const two = side(t, path, 'two', { command: ['sleep', '60'] })
  const starting = t.throwsAsync(two.supervisor.start(), { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' })
  await once(two.supervisor, 'state')
  await one.supervisor.scale(2)
  t.is(lanesOf(port), 1)
  await two.supervisor.stop()
  await starting
  await until(() => lanesOf(port) === 2, 'the lane of slot 1')
  // Each of the two may serve both lanes for a moment
  const all = new Set<string>()
  while (all.size < 2) for (const one of await answers(port, 40)) all.add(one)
  t.deepEqual([...all].toSorted(), ['one 0', 'one 1'])
  await one.supervisor.stop()
})

const ENDS = `import { createServer } from 'node:net'
  const worker = await joinSupervisor()
  const server = createServer()
  await worker.listen('http', server)
  server.listen = () => process.env.HANGS ? Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) : process.exit(3)
  await worker.ready()`

for (const hangs of isFull ? [false, true] : [false])
  test(`no worker accepts when it is to (${hangs ? 'it hangs' : 'it ends'}): the predecessor takes back all that it has`, async t => {
    const path = temporaryPath('supervisor')
    const admin = temporaryPath('admin')
    const one = side(t, path, 'one', { balance: 'shared', admin })
    await one.supervisor.start()
    const entry = program(hangs ? `process.env.HANGS = '1'\n${ENDS}` : ENDS)
    const two = side(t, path, 'two', { balance: 'shared', admin, entry, hangTimeout: hangs ? 300 : 0 })
    const reason = hangs ? /not been heard of for 300 ms/ : /exited with code 3/
    await t.throwsAsync(two.supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY', message: reason })
    t.deepEqual(await answers(portOf(one.supervisor), 5), Array(5).fill('one 0'))
    t.like(await status(admin), { phase: 'running' })
    t.is(one.supervisor.phase, 'running')
    await one.supervisor.stop()
  })

testFull(
  'programs that listen by themselves are lent no lane: those that none of them accepts from are closed, and none is opened',
  async t => {
    const path = temporaryPath('supervisor')
    const entry = program(`import { createServer } from 'node:net'
    const worker = await joinSupervisor()
    const server = createServer(socket => socket.on('error', () => {}).resume().end(process.env.NAME + ' ' + worker.slot))
    server.listen(worker.listener('http'))
    worker.onStop(() => void server.close())
    await worker.ready()`)
    const one = side(t, path, 'one', { workers: 3 })
    const two = side(t, path, 'two', { balance: 'shared', entry })
    const three = side(t, path, 'three', { workers: 2, entry })
    await one.supervisor.start()
    const port = portOf(one.supervisor)
    t.is(lanesOf(port), 3)
    await two.supervisor.start()
    await one.supervisor.stop()
    await until(() => lanesOf(port) === 1, 'one lane')
    t.deepEqual(await answers(port, 10), Array(10).fill('two 0'))
    await three.supervisor.start()
    await two.supervisor.stop()
    t.is(lanesOf(port), 1)
    t.true((await answers(port, 10)).every(answer => answer.startsWith('three ')))
    await three.supervisor.stop()
  }
)

test('workers of control version 3 on both sides: they are told nothing that is newer, and serve', async t => {
  const index = new URL('../../../build/dist/index.js', import.meta.url).href
  const entry = program(`
    import { createServer } from 'node:net'
    import { connect, Descriptor } from '${index}'
    const control = await connect(Descriptor.adopt(3), { authorize: () => true })
    const channel = await connect(Descriptor.adopt(4), { authorize: () => true })
    const heard = []
    channel.serve(() => heard)
    const { listeners, hold } = await control.request({ type: 'join', version: 1, newest: 3 }, { descriptors: 253 })
    if (hold) throw new Error('hold')
    const server = createServer(socket => socket.resume().end(process.env.NAME + ' ' + process.pid))
    control.on('message', ({ value, descriptors }) => {
      heard.push(value.type)
      for (const one of descriptors) one.close()
      if (['go', 'give', 'inherit'].includes(value.type)) throw new Error(value.type)
      if (value.type === 'stop') server.close(() => process.exit(0))
    })
    server.listen(listeners.http.listener.toListenHandle())
    await control.send({ type: 'uses', name: 'http', adopts: true })
    await control.request({ type: 'ready' }, { descriptors: 0 })`)
  const path = temporaryPath('supervisor')
  const [one, two] = ['one', 'two'].map(name => side(t, path, name, { entry, balance: 'shared' })) as [Side, Side]
  const ends: unknown[] = []
  one.supervisor.on('exit', (_, code, signal) => ends.push(signal ?? code))
  await one.supervisor.start()
  const port = portOf(one.supervisor)
  await two.supervisor.start()
  await one.supervisor.stop()
  t.deepEqual(ends, [0])
  t.true((await answers(port, 10)).every(answer => answer.startsWith('two ')))
  t.deepEqual(await two.supervisor.workers[0]!.channel.request({}), ['share'])
  await two.supervisor.stop()
})

test('stop() and kill() before the commit give up; stop() of the owner waits for an attempt, kill() does not', async t => {
  const path = temporaryPath('supervisor')
  const one = side(t, path, 'one', inPlainC('one'))
  await one.supervisor.start()
  const port = portOf(one.supervisor)
  for (const how of ['stop', 'kill'] as const) {
    const two = side(t, path, 'two')
    const starting = t.throwsAsync(two.supervisor.start(), { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' })
    await once(two.supervisor, 'state')
    await two.supervisor[how]()
    await starting
    t.deepEqual(await answers(port, 3), Array(3).fill('one 0'))
  }
  const three = side(t, path, 'three', inPlainC('three'))
  const starting = three.supervisor.start()
  await once(three.supervisor, 'state')
  const ended = one.supervisor.stop()
  t.is(one.supervisor.phase, 'running')
  await starting
  await ended
  t.deepEqual(await answers(port, 3), Array(3).fill('three 0'))

  const four = side(t, path, 'four', { command: ['sleep', '60'] })
  const never = t.throwsAsync(four.supervisor.start())
  await once(four.supervisor, 'state')
  await three.supervisor.kill()
  await four.supervisor.kill()
  await never
})

// --- the new release can't boot

test("a new release that can't boot leaves the old one serving, and ends with status 1 and a clear error", async t => {
  const path = temporaryPath('supervisor')
  const taken = createServer().listen(0, '127.0.0.1')
  t.teardown(() => void taken.close())
  await once(taken, 'listening')
  const http = { port: 0, host: '127.0.0.1' }
  const one = side(t, path, 'one', inPlainC('one'))
  await one.supervisor.start()
  const common = { takeover: path, workers: 1, listeners: { http }, balance: 'shared' }
  const failures = [
    [{ command: ['sh', '-c', 'exit 3'] }, /ERR_PASSFD_WORKER_NOT_READY|did not get ready: .*exited with code 3/],
    [{ command: ['sleep', '100'], readyTimeout: 300 }, /has not said READY=1 to NOTIFY_SOCKET within 300 ms/],
    [
      {
        entry: program('await joinSupervisor()\nthrow new Error("no such table")'),
        balance: 'per-worker',
        spawn: { execArgv: [] }
      },
      /failed with Error: no such table/
    ],
    [
      {
        command: ['sleep', '100'],
        listeners: { http, more: { port: (taken.address() as { port: number }).port, host: '127.0.0.1' } }
      },
      /EADDRINUSE/
    ],
    [{ command: ['sleep', '100'], listeners: { more: http } }, /ERR_PASSFD_TAKEOVER_LISTENERS/]
  ] as const
  await Promise.all(
    (isFull ? failures : failures.slice(2, 4)).map(async ([options, error]) => {
      const process = startSupervisor(t, { ...common, ...options })
      const { code, stderr } = await process.running.exit
      t.is(code, 1, stderr)
      t.regex(stderr, error)
    })
  )
  t.true((await answers(portOf(one.supervisor), 20)).every(answer => answer.startsWith('one ')))
  t.deepEqual([one.supervisor.phase, one.reports, lanesOf(portOf(one.supervisor))], ['running', [], 1])
  await one.supervisor.stop()
  taken.close()
  await once(taken, 'close')
})

// --- one of the two gets a signal just before a step

const CANDIDATE = ['begin', 'offer', 'boot', 'commit', 'attach', 'mark']
const OWNER = ['answer begin', 'letGo', 'rollBack']
const AT_THE_BYTE = ['commit', 'attach', 'mark']

interface Case {
  who: 'candidate' | 'owner'
  what: string
  step: string
}

const cases: Case[] = ['KILL', 'STOP', 'TERM', 'INT'].flatMap(what => [
  ...CANDIDATE.map(step => ({ who: 'candidate' as const, what, step })),
  ...OWNER.map(step => ({ who: 'owner' as const, what, step }))
])
const few: Case[] = [
  { who: 'candidate', what: 'KILL', step: 'mark' },
  { who: 'candidate', what: 'STOP', step: 'commit' }
]

let named: string | undefined

/** A stopped process is given up; a worker gets ready in that time. */
const SHORT = { attemptTimeout: 6000, graceTimeout: 6000, turnTimeout: 6000 }
const LONG = { graceTimeout: 60_000 }

function processAt(t: ExecutionContext, path: string, name: string, more: object = {}, limits: object = LONG): Process {
  named ??= program(NAMES)
  return startSupervisor(t, {
    entry: named,
    listeners: { http: { port: 0, host: '127.0.0.1' } },
    workers: 1,
    balance: 'shared',
    idleGrace: 0,
    takeover: { path, ...limits, supersededStatus: 7 },
    spawn: { execArgv: [], env: { NAME: name } },
    ...more
  })
}

/** Its workers are orphans then; resolves when they have ended, too. */
async function kill({ pid, running }: Process): Promise<void> {
  const workers = childrenOf(pid)
  process.kill(pid, 'SIGKILL')
  await running.exit
  for (const worker of workers) await gone(worker)
}

/** Which of the two serves in the end. */
function survivor({ who, what, step }: Case): 'owner' | 'candidate' | 'nobody' {
  const isStop = what === 'TERM' || what === 'INT'
  if (who === 'candidate') {
    if (what === 'KILL') return 'owner'
    if (isStop) return AT_THE_BYTE.includes(step) ? 'nobody' : 'owner'
    return ['offer', 'boot', 'commit'].includes(step) ? 'owner' : 'candidate'
  }
  if (step === 'letGo') return 'candidate'
  if (step === 'rollBack') return what === 'STOP' ? 'owner' : 'nobody'
  return what === 'STOP' ? 'owner' : 'candidate'
}

/** What a stopped process is waited for, before it goes on. */
async function limits(t: ExecutionContext, { who, step }: Case, owner: Process, candidate: Process): Promise<void> {
  if (who === 'owner') {
    if (step === 'letGo') await candidate.told('started')
    else await candidate.running.exit
  } else if (step === 'attach' || step === 'mark')
    t.like(await owner.told('report'), { code: 'silent', pid: candidate.pid })
  else if (step !== 'begin') t.is(await owner.told('step'), 'rollBack')
}

for (const one of isFull ? cases : few) {
  const { who, what, step } = one
  testInCi(
    `${what} to the ${who} before ${step}: somebody serves if it can be, and the next takeover works`,
    async t => {
      const path = temporaryPath('supervisor')
      const steps = { [step]: what === 'KILL' ? 'STOP' : what }
      const times = what === 'STOP' ? SHORT : LONG
      const owner = processAt(t, path, 'owner', { steps: who === 'owner' ? steps : { rollBack: 'NOTHING' } }, times)
      let { port } = await owner.told<{ port: number }>('started')
      const fails = step === 'rollBack' ? { entry: undefined, command: ['false'], spawn: {} } : {}
      const candidate = processAt(t, path, 'candidate', { ...(who === 'candidate' && { steps }), ...fails }, times)
      const victim = who === 'owner' ? owner : candidate
      t.is(await victim.told('step'), step)
      if (what === 'KILL') {
        await stopped(victim.pid)
        await kill(victim)
      } else if (what === 'STOP') {
        await stopped(victim.pid)
        await limits(t, one, owner, candidate)
        process.kill(victim.pid, 'SIGCONT')
      }
      const serves = survivor(one)
      if (serves === 'candidate') {
        // A predecessor that was killed before its offer leaves nothing
        if (what !== 'STOP' || who !== 'owner') port = (await candidate.told<{ port: number }>('started')).port
        if (what !== 'KILL' || who !== 'owner') t.like(await owner.running.exit, { code: 7, stderr: '' })
      } else if (serves === 'owner' && what !== 'KILL') {
        const { code, stderr } = await candidate.running.exit
        t.is(code, what === 'STOP' ? 1 : 0, stderr)
        if (what === 'STOP' && who === 'candidate') t.regex(stderr, /TAKEOVER_TOO_LATE/)
      } else if (serves === 'nobody') {
        t.is((await candidate.running.exit).code, step === 'rollBack' ? 1 : 0)
        t.is((await owner.running.exit).code, what === 'KILL' ? null : step === 'rollBack' ? 0 : 7)
        await t.throwsAsync(client(port), { code: 'ECONNREFUSED' })
      }
      if (serves !== 'nobody') t.deepEqual(await answers(port, 4), Array(4).fill(`${serves} 0`))
      if (!isFull && what === 'STOP') {
        process.kill(owner.pid, 'SIGTERM')
        t.like(await owner.running.exit, { code: 0, stderr: '' })
        return
      }
      const next = processAt(t, path, 'next', {}, times)
      const { port: last } = await next.told<{ port: number }>('started')
      if (serves !== 'nobody') {
        t.is(last, port)
        t.like(await (serves === 'owner' ? owner : candidate).running.exit, { code: 7 })
      }
      t.deepEqual(await answers(last, 4), Array(4).fill('next 0'))
      process.kill(next.pid, 'SIGTERM')
      t.like(await next.running.exit, { code: 0, stderr: '' })
      await t.throwsAsync(client(last), { code: 'ECONNREFUSED' })
    }
  )
}

testInCi(
  'the owner is killed while its successor boots: its workers end nothing that the successor has, and all lanes are served',
  async t => {
    const path = temporaryPath('supervisor')
    const common = { balance: 'per-worker', workers: 2 }
    const owner = processAt(t, path, 'owner', common)
    const { port } = await owner.told<{ port: number }>('started')
    const candidate = processAt(t, path, 'candidate', { ...common, workers: 1, steps: { boot: 'STOP' } })
    await candidate.told('step')
    await stopped(candidate.pid)
    await kill(owner)
    t.is(lanesOf(port), 2)
    const waiting = await Promise.all(Array.from({ length: 10 }, () => client(port)))
    process.kill(candidate.pid, 'SIGCONT')
    await candidate.told('started')
    t.deepEqual(await Promise.all(waiting.map(({ answer }) => answer)), Array(10).fill('candidate 0'))
    t.deepEqual(await answers(port, 10), Array(10).fill('candidate 0'))
    process.kill(candidate.pid, 'SIGINT')
    t.like(await candidate.running.exit, { code: 0, stderr: '' })
  }
)
