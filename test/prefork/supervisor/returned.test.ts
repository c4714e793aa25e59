/** A stop that comes while nobody serves: the last worker has just begun to end, and the next one is not ready yet. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { setImmediate } from 'node:timers/promises'
import { deferred } from '../../../src/base/deferred.ts'
import { type Descriptor, own } from '../../../src/descriptor/descriptor.ts'
import { native } from '../../../src/os/native.ts'
import type { Balance } from '../../../src/prefork/balance.ts'
import { ReturnedConnections } from '../../../src/prefork/supervisor/returned.ts'
import type { Workers } from '../../../src/prefork/supervisor/workers.ts'
import { BALANCES, nameOf } from '../../helpers/prefork.ts'
import { command, fixture, program, supervising } from '../../helpers/supervising.ts'
import { test as always, testInCi, until } from '../../helpers/test.ts'

/** The first one serves at once, each other one when it is told. */
const LATER = `
  import { createServer } from 'node:http'
  const worker = await joinSupervisor()
  const told = new Promise(resolve => worker.channel.on('message', ({ value }) => (value.order === 'stop' ? worker.stop() : resolve())))
  if (worker.id > 1) await told
  await worker.listen('http', createServer((request, response) => response.end('from ' + worker.id)))
  await worker.ready()`
const restart = () => ({ restart: true, delay: 0 }) as const

/** Resolves when the kernel has accepted it. `answer`: the body, or the code of an error. */
async function ask(port: number): Promise<{ answer: Promise<string> }> {
  const socket = connect(port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write('GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n')
  const answer = text(socket).then(
    all => all.split('\r\n\r\n').at(-1)!,
    ({ code }) => code
  )
  return { answer }
}

async function codeOf(port: number): Promise<string | undefined> {
  const socket = connect(port, '127.0.0.1')
  const code = await once(socket, 'connect').then(
    () => undefined,
    ({ code }) => code
  )
  socket.destroy()
  return code
}

for (const given of BALANCES) {
  const balance = given as Balance
  // They wait in one listener, which the supervisor keeps, as those of dispatch do
  const test = given === 'per-worker' ? always : testInCi
  test(`${nameOf(given)}: those who wait are served by the next worker, once it is ready; latecomers are refused`, async t => {
    await supervising(t, { entry: program(LATER), balance, restart }, async (supervisor, { exits }) => {
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      command(supervisor, { order: 'stop' })
      await until(() => exits.length === 1, 'the end of the first')
      await until(() => supervisor.workers[0]?.state === 'starting', 'the second one')
      const waiting = await Promise.all([ask(port), ask(port), ask(port)])
      const stopped = supervisor.stop()
      t.is(await codeOf(port), 'ECONNREFUSED')
      supervisor.workers[0]!.channel.send({ order: 'go' })
      t.deepEqual(await Promise.all(waiting.map(({ answer }) => answer)), Array(3).fill('from 2'))
      await stopped
      t.deepEqual(exits, ['0/1 0', '0/2 0'])
    })
  })

  test(`${nameOf(given)}: the last worker was sent TERM a moment before the supervisor is told to stop`, async t => {
    await supervising(t, { entry: fixture('obeys'), balance, restart }, async (supervisor, { of }) => {
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      process.kill(supervisor.workers[0]!.pid!, 'SIGTERM')
      await until(() => of(1).includes('stopping'), 'its wish to end')
      const waiting = await Promise.all([ask(port), ask(port), ask(port)])
      await supervisor.stop()
      for (const { answer } of waiting) t.regex(await answer, /^0 [12] \d+$/)
    })
  })
}

testInCi('a worker that does not get ready holds up a stop for stopTimeout, only if somebody waits', async t => {
  const options = { entry: program(LATER), restart, stopTimeout: 300, killTimeout: 100 }
  for (const clients of [0, 1])
    await supervising(t, options, async (supervisor, { exits }) => {
      await supervisor.start()
      const { port } = supervisor.address('http') as { port: number }
      command(supervisor, { order: 'stop' })
      await until(() => exits.length === 1 && supervisor.workers[0]?.state === 'starting', 'the second one')
      const waiting = await Promise.all(Array.from({ length: clients }, () => ask(port)))
      const began = performance.now()
      await supervisor.stop()
      if (clients > 0) t.true(performance.now() - began >= 299)
      for (const { answer } of waiting) t.true(['', 'ECONNRESET'].includes(await answer))
      t.is(exits.length, 2)
    })
})

always('address: what a worker that hangs has not taken at a stop, another one serves when that has ended', async t => {
  const options = {
    entry: fixture('obeys'),
    workers: 2,
    balance: { dispatch: 'address' } as const,
    restart,
    stopTimeout: 300,
    killTimeout: 50
  }
  await supervising(t, options, async (supervisor, { exits }) => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const [, id] = (await (await ask(port)).answer).split(' ')
    const hung = supervisor.workers.find(worker => `${worker.id}` === id)!
    process.kill(hung.pid!, 'SIGSTOP')
    const waiting = await Promise.all([ask(port), ask(port), ask(port)])
    await supervisor.stop()
    const other = `${hung.id === 1 ? 2 : 1}`
    for (const { answer } of waiting) t.is((await answer).split(' ')[1], other)
    t.is(exits.length, 2)
  })
})

always('kill() ends a stop that waits for a worker that hangs', async t => {
  const options = { entry: fixture('obeys'), workers: 2, balance: { dispatch: 'address' } as const, restart }
  await supervising(t, { ...options, stopTimeout: 600_000 }, async (supervisor, { exits, of }) => {
    await supervisor.start()
    const { port } = supervisor.address('http') as { port: number }
    const [, id] = (await (await ask(port)).answer).split(' ')
    process.kill(supervisor.workers.find(worker => `${worker.id}` === id)!.pid!, 'SIGSTOP')
    const waiting = await ask(port)
    const stopped = supervisor.stop()
    await until(() => of(Number(id)).includes('stopping'), 'the order to the one that hangs')
    t.false(of(id === '1' ? 2 : 1).includes('stopping'))
    await supervisor.kill()
    await stopped
    t.true(['', 'ECONNRESET'].includes(await waiting.answer))
    t.is(exits.length, 2)
  })
})

interface Standing {
  unconfirmed?: number
  replaced?: boolean
  unreachable?: boolean
  state?: string
}

/** What keeps whom at a stop: workers, by their names. `lost`: the channels of these have ended, and connections will come back. */
function keeping(all: Record<string, Standing>, ...lost: string[]) {
  const exited = deferred()
  const workers = Object.entries(all).map(([name, standing]) => ({
    name,
    ...{ unconfirmed: 0, replaced: false, unreachable: false, state: 'ready', ended: false, exited: exited.promise },
    ...standing
  }))
  const room = deferred()
  const returned = new ReturnedConnections(
    {
      ready: () => [],
      servers: () => [],
      expected: () => [],
      filter: (which: (worker: object) => boolean) => workers.filter(which),
      some: (is: (worker: object) => boolean) => workers.some(is)
    } as unknown as Workers,
    () => undefined,
    () => room.promise
  )
  for (const name of lost) returned.from(workers.find(one => one.name === name) as never, 'http', [], true)
  return { returned, keeper: (returned.keeper() as unknown as { name: string } | undefined)?.name, exited, room }
}

always('who stops last: one that has taken all, rather one that is not replaced; nobody if nothing is under way', t => {
  t.is(keeping({ a: {}, b: {} }).keeper, undefined)
  t.is(keeping({ a: { unconfirmed: 2 }, b: { replaced: true }, c: {} }).keeper, 'c')
  t.is(keeping({ a: { unconfirmed: 2 }, b: { replaced: true } }).keeper, 'b')
  t.is(keeping({ a: { unconfirmed: 2 }, b: { state: 'stopping' }, c: { unreachable: true } }).keeper, undefined)
  // It can't be the one that hangs that is waited for
  t.is(keeping({ a: { unconfirmed: 2 } }).keeper, undefined)
  t.is(keeping({ a: { unconfirmed: 2 }, b: { unreachable: true } }, 'b').keeper, 'a')
})

always('a stop also waits until idle connections that come back have somebody', async t => {
  const { returned, exited, room } = keeping({ a: {}, b: { unreachable: true } }, 'b')
  let isSettled = false
  const settled = returned.settled(600_000, new Promise(() => {})).then(() => {
    isSettled = true
  })
  exited.resolve()
  await setImmediate()
  t.false(isSettled)
  room.resolve()
  await settled
  t.is(returned.keeper(), undefined)
})

/** Idle connections that come to `returned`, and who gets how many: of the workers by slot, and of nobody. */
function passing(workers: { slot: number; room?: number; serves?: boolean }[]) {
  const got: [slot: number, count: number][] = []
  const nobody: [count: number, slot: number | undefined][] = []
  const all = workers.map(({ slot, room = Number.POSITIVE_INFINITY, serves = true }) => ({
    slot,
    uses: new Map(serves ? [['http', { adopts: true }]] : []),
    hasRoom: (count: number) => count <= room,
    pass: async (_name: string, connections: Descriptor[]) => {
      got.push([slot, connections.length])
      for (const connection of connections) connection.close()
    }
  }))
  const returned = new ReturnedConnections(
    { ready: () => all } as unknown as Workers,
    () => undefined,
    async (_name, connections, slot) => {
      nobody.push([connections.length, slot])
      for (const connection of connections) connection.close()
    }
  )
  const pass = (slot: number, count: number): Promise<void> =>
    returned.pass(
      { slot },
      'http',
      Array.from({ length: count }, () => own(native.dup(0)))
    )
  return { pass, got, nobody }
}

always('idle ones go to the worker of the slot, or else to all that serve, or else to nobody', async t => {
  const { pass, got, nobody } = passing([{ slot: 0 }, { slot: 1 }, { slot: 2, serves: false }])
  await pass(1, 3)
  t.deepEqual(got.splice(0), [[1, 3]])
  await pass(2, 5)
  t.deepEqual(
    got
      .splice(0)
      .map(([, count]) => count)
      .sort(),
    [2, 3]
  )
  t.deepEqual(nobody, [])
  const none = passing([{ slot: 4, serves: false }])
  await none.pass(4, 2)
  t.deepEqual([none.got, none.nobody], [[], [[2, 4]]])
})

always('a worker without room gets none, even of its own slot', async t => {
  const { pass, got, nobody } = passing([
    { slot: 0, room: 3 },
    { slot: 1, room: 10 }
  ])
  await pass(0, 3)
  await pass(0, 4)
  await pass(0, 11)
  t.deepEqual(got, [
    [0, 3],
    [1, 4]
  ])
  t.deepEqual(nobody, [[11, 0]])
})
