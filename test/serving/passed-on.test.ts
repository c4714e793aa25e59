/** Idle connections of a process that stops go on in another process, and their clients notice nothing. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createSecure } from 'node:https'
import type { Server, Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import * as tls from 'node:tls'
import type { ExecutionContext } from 'ava'
import { deferred } from '../../src/base/deferred.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import type { Balance } from '../../src/prefork/balance.ts'
import type { Supervisor, SupervisorOptions } from '../../src/prefork/index.ts'
import { PassedOn } from '../../src/serving/passed-on.ts'
import { ServerIntake } from '../../src/serving/server-intake.ts'
import { patched } from '../helpers/channels.ts'
import { Client } from '../helpers/http-client.ts'
import { socketPath } from '../helpers/path.ts'
import { BALANCES, nameOf } from '../helpers/prefork.ts'
import { seated } from '../helpers/seats.ts'
import { command, program, supervising } from '../helpers/supervising.ts'
import { test as always, test, testInCi, until } from '../helpers/test.ts'
import { clientKey, serverKey } from '../helpers/tls.ts'

/** Answers with its slot and its id, and how many connections it has got. `/slow`: when it is told. */
const NAMING = `
  import { createServer } from 'node:http'
  const worker = await joinSupervisor()
  let got = 0
  const slow = []
  worker.channel.on('message', ({ value }) => {
    if (value.order === 'answer') for (const response of slow.splice(0)) response.end(worker.slot + '/' + worker.id)
  })
  const server = createServer((request, response) => {
    if (request.url === '/slow') slow.push(response)
    else response.end(worker.slot + '/' + worker.id + ' ' + got)
  })
  server.on('connection', () => got++)
  server.keepAliveTimeout = 60_000
  await worker.listen('http', server)
  await worker.ready()`

interface Answerer {
  slot: number
  id: number
}

async function who(client: Client, path = '/'): Promise<Answerer & { head: string }> {
  const { head, body } = await client.get(path).answer()
  const [slot, id] = body.split(/[/ ]/).map(Number)
  return { slot: slot!, id: id!, head }
}

function clients(supervisor: Supervisor, count: number): Promise<Client[]> {
  const { port } = supervisor.address('http') as { port: number }
  return Promise.all(Array.from({ length: count }, () => Client.to({ port, host: '127.0.0.1' })))
}

async function close(all: readonly Client[]): Promise<void> {
  await Promise.all(all.map(client => client.close()))
}

/** A stop would wait for it. */
const LONG = 60_000

async function reloading(t: ExecutionContext, options: Partial<SupervisorOptions>): Promise<void> {
  await supervising(
    t,
    { entry: program(NAMING), workers: 2, idleGrace: LONG, ...options },
    async (supervisor, { exits }) => {
      await supervisor.start()
      const all = await clients(supervisor, 8)
      // Two have sent nothing yet, as browsers open connections ahead of requests
      const before = await Promise.all(all.slice(2).map(client => who(client)))
      await supervisor.reload()
      t.deepEqual([...exits].sort(), ['0/1 0', '1/2 0'])
      const after = await Promise.all(all.map(client => who(client)))
      for (const { id, head } of after) {
        t.true(id > 2, `of a new worker: ${id}`)
        t.regex(head, /^Connection: keep-alive$/im)
      }
      t.deepEqual(
        after.slice(2).map(({ slot }) => slot),
        before.map(({ slot }) => slot),
        'the slot stays'
      )
      t.false(all.some(({ over }) => over))
      await close(all)
    }
  )
}

for (const given of [...BALANCES, { dispatch: 'least-connections' }, { dispatch: 'address' }])
  (given === 'per-worker' ? always : testInCi)(`${nameOf(given)}: a reload passes them on to the same slot`, t =>
    reloading(t, { balance: given as Balance })
  )

testInCi('a route function: they stay in their slot, whatever it would say', async t => {
  let asked = 0
  await reloading(t, { balance: { dispatch: () => asked++ % 2 } })
})

test('a request under way is answered by its worker, with Connection: close', async t => {
  await supervising(t, { entry: program(NAMING), idleGrace: LONG }, async (supervisor, { exits }) => {
    await supervisor.start()
    const [busy, idle, half] = (await clients(supervisor, 3)) as [Client, Client, Client]
    await Promise.all([who(idle), who(half)])
    half.say('GET / HTTP/1.1\r\nHo')
    busy.get('/slow')
    await until(() => supervisor.workers[0]!.requests === 3, 'its requests')
    const [old] = supervisor.workers
    const reloaded = supervisor.reload()
    await until(() => supervisor.workers.some(({ id, connections }) => id === 2 && connections === 1), 'the idle one')
    t.is((await who(idle)).id, 2)
    old!.channel.send({ order: 'answer' })
    half.say('st: here\r\n\r\n')
    for (const client of [busy, half]) {
      const { head, body } = await client.answer()
      t.regex(head, /^Connection: close$/im)
      t.regex(body, /^0\/1/)
    }
    await reloaded
    t.deepEqual(exits, ['0/1 0'])
    await close([busy, idle, half])
  })
})

testInCi('a removed slot: the others share them', async t => {
  const options = { entry: program(NAMING), workers: 3, idleGrace: LONG, balance: { dispatch: 'round-robin' } as const }
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const all = await clients(supervisor, 12)
    await Promise.all(all.map(client => who(client)))
    await supervisor.scale(2)
    const slots = (await Promise.all(all.map(client => who(client)))).map(({ slot }) => slot)
    t.deepEqual([...new Set(slots)].sort(), [0, 1])
    t.deepEqual(
      [0, 1].map(slot => slots.filter(one => one === slot).length),
      [6, 6]
    )
    await close(all)
  })
})

testInCi('thousands of them', async t => {
  const options = { entry: program(NAMING), workers: 2, idleGrace: LONG, balance: { dispatch: 'round-robin' } as const }
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const all: Client[] = []
    for (let i = 0; i < 12; i++) all.push(...(await clients(supervisor, 250)))
    await Promise.all(all.map(client => who(client)))
    await supervisor.reload()
    const answers = await Promise.all(all.map(client => who(client)))
    t.true(answers.every(({ id }) => id > 2))
    await supervisor.scale(1)
    const last = await Promise.all(all.map(client => who(client)))
    t.true(last.every(({ slot }) => slot === 0))
    await close(all)
  })
})

testInCi('more than one message carries, idle for longer than idleGrace: none is closed', async t => {
  await supervising(t, { entry: program(NAMING), idleGrace: 0 }, async supervisor => {
    await supervisor.start()
    const all = [...(await clients(supervisor, 250)), ...(await clients(supervisor, 250))]
    await Promise.all(all.map(client => who(client)))
    await supervisor.reload()
    await supervisor.reload() // of connections that have sent nothing to the second worker
    const open = all.filter(({ over }) => !over)
    const answers = await Promise.all(open.map(client => who(client)))
    t.deepEqual([answers.length, answers.every(({ id }) => id === 3)], [all.length, true])
    await close(all)
  })
})

test('a stop closes them after idleGrace, as nobody goes on with them', async t => {
  await supervising(t, { entry: program(NAMING), idleGrace: 0 }, async supervisor => {
    await supervisor.start()
    const all = await clients(supervisor, 2)
    await who(all[0]!)
    await supervisor.stop()
    t.deepEqual(await Promise.all(all.map(({ ended }) => ended)), [undefined, undefined])
    await close(all)
  })
})

testInCi('passIdle: false closes them after idleGrace', async t => {
  await supervising(t, { entry: program(NAMING), idleGrace: 0, passIdle: false }, async supervisor => {
    await supervisor.start()
    const all = await clients(supervisor, 2)
    await Promise.all(all.map(client => who(client)))
    await supervisor.reload()
    t.deepEqual(await Promise.all(all.map(({ ended }) => ended)), [undefined, undefined])
    await close(all)
  })
})

testInCi('a worker with connections on half of its open files gets no more', async t => {
  for (const [limit, over] of [
    [7, true],
    [8, false]
  ] as const)
    await patched(
      'limit',
      () => () => limit,
      () =>
        supervising(t, { entry: program(NAMING), idleGrace: LONG }, async supervisor => {
          await supervisor.start()
          const all = await clients(supervisor, 4)
          await Promise.all(all.map(client => who(client)))
          await supervisor.reload()
          if (over) await Promise.all(all.map(({ ended }) => ended))
          else t.true((await Promise.all(all.map(client => who(client)))).every(({ id }) => id === 2))
          t.deepEqual(
            all.map(client => client.over),
            Array(4).fill(over)
          )
          await close(all)
        })
    )
})

test('the heir dies before it has taken them: the next one gets them', async t => {
  const slow = `${NAMING}
    worker.channel.on('message', ({ value }) => {
      if (value.order === 'sleep') {
        worker.channel.send('sleeps')
        setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0))
      }
    })`
  const options = {
    entry: program(slow),
    workers: 3,
    idleGrace: LONG,
    hangTimeout: 0,
    balance: { dispatch: 'round-robin' } as const,
    restart: () => ({ restart: false, reason: 'no' }) as const
  }
  await supervising(t, options, async (supervisor, { exits }) => {
    await supervisor.start()
    const all = await clients(supervisor, 12)
    const before = await Promise.all(all.map(client => who(client)))
    const leaving = all.filter((_, index) => before[index]!.slot === 2)
    t.is(leaving.length, 4)
    // Of the two that stay the one in slot 0 hangs
    const heir = supervisor.workers[0]!
    const sleeps = once(heir.channel, 'message')
    command(supervisor, { order: 'sleep' })
    await sleeps
    await supervisor.scale(2)
    const answers = leaving.map(client => who(client))
    const first = await Promise.race(answers)
    t.is(first.slot, 1)
    process.kill(heir.pid!, 'SIGKILL')
    for (const { slot, id } of await Promise.all(answers)) t.deepEqual([slot, id], [1, 2])
    await until(() => exits.length === 2, 'their ends')
    await close(all)
  })
})

test('a seat passes them on to its successor', async t => {
  const path = socketPath()
  const listeners = { http: { port: 0, host: '127.0.0.1' } }
  const naming = (name: string): Server => createServer((_, response) => response.end(name))
  const first = await seated({ path, listeners, idleGrace: LONG })
  const server = naming('first')
  await first.seat.listen('http', server)
  await first.seat.ready()
  const client = await Client.of(server)
  t.is((await client.get().answer()).body, 'first')
  const second = await seated({ path, listeners, passIdle: false, idleGrace: 0 })
  await second.seat.listen('http', naming('second'))
  await second.seat.ready()
  await first.seat.ended
  t.is((await client.get().answer()).body, 'second')
  const third = await seated({ path, listeners })
  await third.seat.listen('http', naming('third'))
  await third.seat.ready()
  await second.seat.ended
  t.is(await client.ended, undefined)
  await client.close()
  await third.seat.stop()
})

testInCi('a supervisor passes them on to the same slot of its successor', async t => {
  const takeover = { path: socketPath() }
  const options = {
    entry: program(NAMING),
    workers: 2,
    idleGrace: LONG,
    takeover,
    balance: { dispatch: 'round-robin' } as const
  }
  await supervising(t, options, async old => {
    await old.start()
    const all = await clients(old, 8)
    const before = await Promise.all(all.map(client => who(client)))
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      await until(() => old.phase === 'stopped', 'the end of the old one')
      const after = await Promise.all(all.map(client => who(client)))
      t.deepEqual(
        after.map(({ slot }) => slot),
        before.map(({ slot }) => slot)
      )
      t.false(all.some(({ over }) => over))
      await close(all)
    })
  })
})

// --- one process

async function serve(server: Server): Promise<ServerIntake> {
  const served = new ServerIntake(server)
  await served.add(await Descriptor.bind({ port: 0, host: '127.0.0.1' }))
  return served
}

test('what can not be passed on is not offered: TLS stays until idleGrace, an upgraded one until its end', async t => {
  const passed: number[] = []
  const pass = (fd: number): boolean => {
    passed.push(fd)
    return false
  }
  const secure = createSecure(serverKey, (_, response) => response.end('secure'))
  const open = createServer((_, response) => response.end('open')).on('upgrade', (_, socket: Socket) => {
    socket.resume().once('end', () => socket.end())
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n')
  })
  const servers = [await serve(secure), await serve(open)] as const
  const { port } = secure.address() as { port: number }
  const socket = tls.connect({ port, host: '127.0.0.1', ...clientKey })
  await once(socket, 'secureConnect')
  const encrypted = new Client(socket)
  await encrypted.get().answer()
  const upgraded = await Client.of(open)
  upgraded.get('/', 'Connection: Upgrade\r\nUpgrade: own\r\n')
  await upgraded.answer({ bodiless: true })
  for (const one of servers) void one.stopAccepting({ last: false })
  const drained = servers.map(one => one.drain({ idleGrace: 50, pass }))
  t.is(await encrypted.ended, undefined)
  t.deepEqual(passed, [])
  await Promise.all([encrypted.close(), upgraded.close()])
  await Promise.all(drained)
})

test('one that is refused stays, and is offered again', async t => {
  const server = createServer((_, response) => response.end('here'))
  const served = await serve(server)
  const client = await Client.of(server)
  await client.get().answer()
  let offers = 0
  void served.stopAccepting({ last: false })
  const drained = served.drain({ idleGrace: LONG, pass: () => ++offers > 3 && false })
  await until(() => offers > 3, 'offers')
  t.is((await client.get().answer()).body, 'here', 'it is served meanwhile')
  await client.close()
  await drained
})

test('for its new server it is between two requests: keepAliveTimeout holds, and no time-out of a first request', async t => {
  const server = createServer(
    { connectionsCheckingInterval: 10, headersTimeout: 50, requestTimeout: 100 },
    (_, response) => response.end('new')
  )
  server.keepAliveTimeout = 30_000
  const errors: unknown[] = []
  server.on('clientError', (error, socket) => {
    errors.push(error)
    socket.destroy()
  })
  const served = await serve(server)
  const [here, there] = Descriptor.socketpair()
  served.give(here, undefined, true)
  const client = new Client(there.toSocket())
  const control = await Client.of(server)
  t.is(await control.ended, undefined, 'a new one that says nothing is ended by Node')
  t.deepEqual([errors.length, client.over, client.text], [1, false, ''])
  t.is((await client.get().answer()).body, 'new')
  t.regex((await client.get().answer()).head, /keep-alive/i)
  // From its first request on the server has it in its lists
  client.say('GET / HTTP/1.1\r\n')
  await client.ended
  t.is(errors.length, 2)
  server.keepAliveTimeout = 50
  const [kept, other] = Descriptor.socketpair()
  served.give(kept, undefined, true)
  const silent = new Client(other.toSocket())
  t.is(await silent.ended, undefined)
  await Promise.all([client.close(), control.close(), silent.close()])
  await served.stopAccepting({ last: false })
  await served.drain({ idleGrace: 0 })
})

/** The number of a descriptor that passfd holds. */
function open(): number {
  return native.dup(process.stdin.fd)
}

test('they go in messages of one turn, one after the other, and never too many at once', async t => {
  const sent: [string, number][] = []
  let room = deferred()
  const passedOn = new PassedOn(async (name, connections) => {
    sent.push([name, connections.length])
    for (const connection of connections) connection.close()
    await room.promise
  })
  await passedOn.done
  t.true(passedOn.add('a', open()))
  t.true(passedOn.add('b', open()))
  t.true(passedOn.add('a', open()))
  await turn()
  t.deepEqual(sent, [['a', 2]])
  for (let i = 0; i < 253; i++) t.true(passedOn.add('a', open()))
  const refused = open()
  t.is(passedOn.add('a', refused), 'later')
  native.close(refused)
  const { resolve } = room
  room = deferred()
  room.resolve()
  resolve()
  await passedOn.done
  t.deepEqual(sent, [
    ['a', 2],
    ['b', 1],
    ['a', 253]
  ])
})

test('nobody takes them any more: they are closed, and further ones are refused', async t => {
  const passedOn = new PassedOn(async () => {
    throw new Error('gone')
  })
  t.true(passedOn.add('a', open()))
  t.true(passedOn.add('b', open()))
  await passedOn.done
  const rest = open()
  t.false(passedOn.add('a', rest))
  native.close(rest)
})
