/** A Seat as its program sees it. Predecessor and successor are in this process, so their descriptors are counted together. */

import * as dgram from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { inspect } from 'node:util'
import { deferred } from '../../src/base/deferred.ts'
import type { PassfdError } from '../../src/base/errors.ts'
import { connect } from '../../src/channel/connect.ts'
import { listen } from '../../src/channel/server.ts'
import { Connection } from '../../src/connection/connection.ts'
import { Descriptor, own } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'
import { bindOn, DATAGRAM, PACKETS } from '../../src/os/socket-name.ts'
import type { Seat } from '../../src/takeover/index.ts'
import { temporaryPath } from '../helpers/path.ts'
import { answerAt, end, first, HTTP, keptAt, naming, rejects, seated, type Told } from '../helpers/seats.ts'
import { test, until } from '../helpers/test.ts'

test('a successor serves in the place of its predecessor, on TCP and on a Unix path', async t => {
  const path = temporaryPath('seat')
  const unix = temporaryPath('unix')
  const listeners = { ...HTTP, unix: { path: unix } }
  const one = await seated({ path, listeners })
  t.is(one.seat.predecessor, undefined)
  const server = naming('one')
  await one.seat.listen('http', server)
  await one.seat.listen('unix', naming('one'))
  t.false(server.listening)
  await one.seat.ready()
  t.true(server.listening)
  const { port } = server.address() as { port: number }

  const two = await seated({ path, listeners })
  t.is(two.seat.predecessor?.pid, process.pid)
  const next = naming('two')
  await two.seat.listen('http', next)
  await two.seat.listen('unix', naming('two'))
  const listening = once(next, 'listening')
  t.is(await answerAt(port), 'one')
  t.is(await answerAt(unix), 'one')
  t.false(next.listening)
  const superseded = once(one.seat, 'superseded')
  await two.seat.ready()
  await listening
  await superseded
  t.true(one.seat.superseded)
  t.true(one.seat.signal.aborted)
  await one.seat.ended
  t.is((next.address() as { port: number }).port, port)
  t.is(await answerAt(port), 'two')
  t.is(await answerAt(unix), 'two')
  t.deepEqual([...one.reports, ...two.reports], [])
  await end(two.seat)
})

test('each is replaced while its own predecessors still drain, and the owner knows of all of them', async t => {
  const path = temporaryPath('seat')
  let owner = await first(path, { name: '0' })
  const { port } = owner
  const all: Seat[] = [owner.seat]
  const kept = [await keptAt(port)]
  for (let generation = 1; generation <= 3; generation++) {
    owner = await first(path, { name: `${generation}` })
    all.push(owner.seat)
    kept.push(await keptAt(port))
    t.is(kept.at(-1)!.name, `${generation}`)
  }
  const draining = (): number[] => owner.seat.draining.map(({ connections }) => connections)
  while (draining().join() !== '1,1,1') await once(owner.seat, 'draining')
  t.deepEqual(
    all.map(seat => seat.connections),
    [1, 1, 1, 1]
  )
  // The oldest first, so that each is known of until its end
  for (let generation = 0; generation < 3; generation++) {
    kept[generation]!.end()
    await all[generation]!.ended
    while (draining().length > 2 - generation) await once(owner.seat, 'draining')
  }
  kept[3]!.end()
  await end(owner.seat)
})

test('the state goes along, and is locked until it is the successor’s', async t => {
  const path = temporaryPath('seat')
  const { readable, writable } = Descriptor.pipe()
  const [left, right] = Descriptor.socketpair()
  const state = { count: 7, readable, connection: new Connection(left, Buffer.from('head')) }
  const one = await first(path, { ready: { freeze: () => state } })
  const two = await seated({ path, listeners: HTTP })
  await two.seat.listen('http', naming('two'))
  const inherited = await two.seat.inherit()
  t.is(inherited.count, 7)
  t.is(inherited.connection.head.toString(), 'head')
  t.is(inherited.readable.kind, 'pipe')
  for (const thing of [inherited.readable, inherited.connection]) {
    const { prototype } = thing.constructor
    for (const name of Object.getOwnPropertyNames(prototype)) {
      if (['constructor', 'closed', 'kind', 'head', 'toJSON'].includes(name)) continue
      const use = async (): Promise<void> => {
        const member = thing[name]
        await (member as (...values: unknown[]) => unknown).call(
          thing,
          name === 'resize' ? { rows: 1, columns: 1 } : {}
        )
      }
      const error = await t.throwsAsync(use, undefined, name)
      t.is((error as { code?: string }).code, 'ERR_PASSFD_TAKEOVER_NOT_READY', `${thing.constructor.name}.${name}`)
    }
    t.notThrows(() => inspect(thing))
  }
  await t.throwsAsync(async () => new Connection(inherited.readable), { code: 'ERR_PASSFD_TAKEOVER_NOT_READY' })
  await two.seat.ready()
  await one.seat.ended
  t.true(readable.closed)
  t.true(state.connection.closed)
  inherited.readable.close()
  inherited.connection.close()
  writable.close()
  right.close()
  await end(two.seat)
})

test('a failed attempt thaws the very value, open', async t => {
  const path = temporaryPath('seat')
  const { readable, writable } = Descriptor.pipe()
  const state = { readable }
  const thawed: unknown[] = []
  const one = await first(path, { ready: { freeze: () => state, thaw: (value: unknown) => thawed.push(value) } })
  for (let attempt = 1; attempt <= 2; attempt++) {
    const two = await seated({ path, listeners: HTTP })
    const server = createServer()
    await two.seat.listen('http', server)
    const inherited = await two.seat.inherit()
    const waiting = answerAt(one.port)
    await two.seat[Symbol.asyncDispose]()
    await t.throwsAsync(async () => inherited.readable.borrow(), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
    await rejects(t, two.seat.ready(), 'ERR_PASSFD_TAKEOVER_BEGUN')
    t.is(await waiting, 'first')
    t.is(thawed.length, attempt)
    t.is(thawed.at(-1), state)
    t.false(readable.closed)
    t.deepEqual(one.server.address(), { address: '127.0.0.1', family: 'IPv4', port: one.port })
  }
  readable.close()
  writable.close()
  await end(one.seat)
})

test('a freeze that fails: the predecessor accepts again, and the successor may do without the state', async t => {
  const wrong = { what: () => {} }
  const failure = new Error('not now')
  const cases: [freeze: () => unknown, code: string, thawed: unknown[]][] = [
    [() => Promise.reject(failure), 'ERR_PASSFD_REMOTE', []],
    [() => wrong, 'ERR_PASSFD_REMOTE', [wrong]]
  ]
  for (const [freeze, code, expected] of cases) {
    const path = temporaryPath('seat')
    const thawed: unknown[] = []
    // The short limit ends with the failure: any round trip takes longer
    const one = await first(path, { freezeTimeout: 1, ready: { freeze, thaw: (value: unknown) => thawed.push(value) } })
    const two = await seated({ path, listeners: HTTP })
    await two.seat.listen('http', naming('two'))
    await rejects(t, two.seat.inherit(), code)
    t.deepEqual(thawed, expected)
    t.is(await answerAt(one.port), 'first')
    t.like(one.reports, [{ code: 'failed', pid: process.pid }])
    await rejects(t, two.seat.inherit(), code) // it may ask again
    t.is(thawed.length, 2 * expected.length)
    await two.seat.ready()
    await one.seat.ended
    t.is(await answerAt(one.port), 'two')
    await end(two.seat)
  }
})

test('a freeze that takes too long is given up: what it returns in the end comes back by thaw', async t => {
  const path = temporaryPath('seat')
  const thawed: unknown[] = []
  let finish!: (value: unknown) => void
  let aborted: Promise<unknown> | undefined
  const one = await first(path, {
    freezeTimeout: 20,
    ready: {
      freeze: ({ signal }: { signal: AbortSignal }) => {
        aborted = once(signal, 'abort')
        return new Promise(resolve => {
          finish = resolve
        })
      },
      thaw: (value: unknown) => thawed.push(value)
    }
  })
  const two = await seated({ path, listeners: HTTP, graceTimeout: 20 })
  await rejects(t, two.seat.inherit(), 'ERR_PASSFD_REMOTE')
  await aborted
  t.is(await answerAt(one.port), 'first')
  await rejects(t, two.seat.ready(), 'ERR_PASSFD_TAKEOVER_TOO_LATE')
  t.deepEqual(thawed, [])
  const { readable, writable } = Descriptor.pipe()
  const reported = once(one.seat, 'report')
  finish(readable)
  await reported
  t.deepEqual(thawed, [readable])
  readable.close()
  writable.close()
  const three = await first(path, { name: 'three' })
  await one.seat.ended
  await end(three.seat)
})

test('a thaw that fails: passfd closes the state, and says so', async t => {
  const path = temporaryPath('seat')
  const { readable, writable } = Descriptor.pipe()
  const states: unknown[] = [readable, { what: () => {} }]
  const one = await first(path, {
    ready: {
      freeze: () => states.shift(),
      thaw: () => {
        throw new Error('cannot')
      }
    }
  })
  for (const codes of [['thaw'], ['failed', 'thaw']]) {
    const two = await seated({ path, listeners: HTTP })
    const inheriting = two.seat.inherit()
    if (codes.length > 1) await t.throwsAsync(inheriting)
    else await inheriting
    await two.seat[Symbol.asyncDispose]()
    while (one.reports.length < codes.length) await once(one.seat, 'report')
    t.deepEqual(
      one.reports
        .splice(0)
        .map(({ code }) => code)
        .sort(),
      codes
    )
  }
  t.true(readable.closed)
  writable.close()
  t.is(await answerAt(one.port), 'first')
  await end(one.seat)
})

test('a listener that the successor does not list is an error, or dropped by its decision', async t => {
  const path = temporaryPath('seat')
  const unix = temporaryPath('unix')
  const one = await seated({ path, listeners: { ...HTTP, unix: { path: unix } } })
  const server = naming('one')
  await one.seat.listen('http', server)
  await one.seat.listen('unix', server)
  await one.seat.ready()
  const error = await rejects(t, seated({ path, listeners: HTTP }), 'ERR_PASSFD_TAKEOVER_LISTENERS')
  t.regex(error.message, /unix/)
  t.is(await answerAt(unix), 'one')

  const two = await seated({ path, listeners: HTTP, drop: ['unix'] })
  t.deepEqual(two.seat.names, ['http'])
  await rejects(t, two.seat.listen('unix', naming('two')), 'ERR_PASSFD_LISTENER_UNKNOWN')
  const next = naming('two')
  await two.seat.listen('http', next)
  t.is(await answerAt(unix), 'one')
  const kept = await keptAt(unix)
  await two.seat.ready()
  kept.end()
  await one.seat.ended
  t.like(one.reports, [{ code: 'dropped', name: 'unix', pid: process.pid }])
  t.like(two.reports, [{ code: 'dropped', name: 'unix', pid: process.pid }])
  await t.throwsAsync(answerAt(unix), { code: 'ECONNREFUSED' })
  await end(two.seat)
})

test('a listener that was dropped and is bound after all is served', async t => {
  const path = temporaryPath('seat')
  const unix = temporaryPath('unix')
  const listeners = { ...HTTP, unix: { path: unix } }
  const all: Told[] = []
  for (const [index, options] of [{ listeners }, { listeners: HTTP, drop: ['unix'] }, {}].entries()) {
    const told = await seated({ path, ...options })
    all.push(told)
    if (index > 0) {
      told.seat.drop('unix')
      await told.seat.bind('unix', { path: unix })
    }
    const server = naming(`${index}`)
    await told.seat.listen('http', server)
    await told.seat.listen('unix', server)
    await told.seat.ready()
    if (index > 0) await all[index - 1]!.seat.ended
    t.is(await answerAt(unix), `${index}`)
  }
  t.deepEqual(
    all.flatMap(({ reports }) => reports),
    []
  )
  await end(all.at(-1)!.seat)
})

test('a known name at another address is a new listener, and other options are told', async t => {
  const path = temporaryPath('seat')
  const [old, young] = [temporaryPath('unix'), temporaryPath('unix')]
  const one = await seated({ path, listeners: { ...HTTP, unix: { path: old } } })
  await one.seat.listen('http', naming('one'))
  await one.seat.listen('unix', naming('one'))
  await one.seat.ready()
  const two = await seated({
    path,
    listeners: {
      http: { port: 0, host: '127.0.0.1', backlog: 100, ipv6Only: true },
      unix: { path: young, mode: 0o660 }
    }
  })
  const server = naming('two')
  await two.seat.listen('http', server)
  await two.seat.listen('unix', naming('two'))
  t.is(await answerAt(old), 'one')
  await two.seat.ready()
  await one.seat.ended
  t.is(await answerAt(young), 'two')
  t.is(await answerAt((server.address() as { port: number }).port), 'two')
  await t.throwsAsync(answerAt(old), { code: 'ECONNREFUSED' })
  t.like(one.reports, [{ code: 'dropped', name: 'unix' }])
  t.deepEqual(
    two.reports.map(({ code, name }) => `${code} ${name}`),
    ['options http', 'options http', 'address unix', 'dropped unix']
  )
  await end(two.seat)
})

test('a new listener that can’t be bound: the takeover has failed, and the predecessor serves on', async t => {
  const path = temporaryPath('seat')
  const one = await first(path)
  const blocker = createServer().listen(0, '127.0.0.1')
  await once(blocker, 'listening')
  const { port } = blocker.address() as { port: number }
  const unix = temporaryPath('unix')
  await rejects(
    t,
    seated({ path, listeners: { ...HTTP, unix: { path: unix }, more: { port, host: '127.0.0.1' } } }),
    'EADDRINUSE'
  )
  await t.throwsAsync(answerAt(unix), { code: 'ENOENT' })
  const two = await seated({ path })
  await rejects(t, two.seat.bind('more', { port, host: '127.0.0.1' }), 'EADDRINUSE')
  t.deepEqual(two.seat.names, ['http'])
  await two.seat.bind('unix', { path: unix })
  await two.seat.listen('unix', naming('two'))
  await two.seat.listen('http', naming('two'))
  await two.seat.ready()
  await rejects(t, two.seat.bind('late', { port: 0 }), 'ERR_PASSFD_TAKEOVER_BEGUN')
  await one.seat.ended
  t.is(await answerAt(one.port), 'two')
  t.is(await answerAt(unix), 'two')
  blocker.close()
  await end(two.seat)
})

test('without `listeners` a program has all of its predecessor, and may leave some', async t => {
  const path = temporaryPath('seat')
  const unix = temporaryPath('unix')
  const one = await seated({ path })
  await one.seat.bind('http', HTTP.http)
  await one.seat.bind('unix', { path: unix })
  const server = naming('one')
  await one.seat.listen('http', server)
  await one.seat.listen('unix', naming('one'))
  await one.seat.ready()
  const two = await seated({ path })
  t.deepEqual(two.seat.names, ['http', 'unix'])
  await two.seat.listen('http', naming('two'))
  two.seat.drop('unix')
  await two.seat.ready()
  await one.seat.ended
  t.like(one.reports, [{ code: 'dropped', name: 'unix' }])
  t.like(two.reports, [{ code: 'dropped', name: 'unix' }])
  t.deepEqual(two.seat.names, ['http'])
  await end(two.seat)
})

test('a listener that nothing serves is told', async t => {
  const path = temporaryPath('seat')
  const one = await seated({ path, listeners: HTTP })
  await one.seat.ready()
  t.like(one.reports, [{ code: 'unserved', name: 'http' }])
  await end(one.seat)
})

test('what is disposed before ready() has given up: the predecessor goes on, or nobody is there', async t => {
  const path = temporaryPath('seat')
  {
    const unix = temporaryPath('unix')
    await using alone = (await seated({ path, listeners: { unix: { path: unix } } })).seat
    await alone.listen('unix', naming('alone'))
    await t.throwsAsync(keptAt(temporaryPath('none')))
  }
  const one = await first(path)
  {
    await using two = (await seated({ path, listeners: HTTP })).seat
    await two.listen('http', naming('two'))
  }
  t.is(await answerAt(one.port), 'first')
  const three = await first(path, { name: 'three' })
  t.is(await answerAt(one.port), 'three')
  await one.seat.ended
  await end(three.seat)
})

test('one server on two listeners, and connections as Descriptors', async t => {
  const path = temporaryPath('seat')
  const [unix, raw] = [temporaryPath('unix'), temporaryPath('raw')]
  const listeners = { ...HTTP, unix: { path: unix }, raw: { path: raw } }
  let port = 0
  let before: Seat | undefined
  for (const name of ['one', 'two', 'three']) {
    const { seat } = await seated({ path, listeners })
    const server = naming(name)
    await seat.listen('http', server)
    await seat.listen('unix', server)
    await seat.receive(
      'raw',
      connection =>
        void connection
          .toSocket()
          .on('error', () => {})
          .resume()
          .end(`raw ${name}`)
    )
    await seat.ready()
    await before?.ended
    before = seat
    port ||= (server.address() as { port: number }).port
    t.is(await answerAt(port), name)
    t.is(await answerAt(unix), name)
    t.is(await answerAt(raw), `raw ${name}`)
  }
  await end(before!)
})

test('sockets that no server of Node’s serves: UDP, SEQPACKET, datagrams, and one bound by hand', async t => {
  const path = temporaryPath('seat')
  const places = [temporaryPath('packets'), temporaryPath('datagrams')] as const
  const [packets, datagrams] = [
    await bindOn(PACKETS, { path: places[0] }, 0o600, { finish: fd => void native.listen(fd, 5) }),
    await bindOn(DATAGRAM, { path: places[1] }, 0o600, {})
  ].map(({ fd }) => own(fd))
  const given = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const same = given.dup()
  const udp = { type: 'udp4', port: 0, address: '127.0.0.1' } as const
  const one = await seated({ path, listeners: { udp, hand: given, packets: packets!, datagrams: datagrams! } })
  await rejects(t, one.seat.listen('packets', createServer()), 'ERR_PASSFD_DESCRIPTOR_KIND')
  await rejects(t, one.seat.listen('udp', createServer()), 'ERR_PASSFD_DESCRIPTOR_KIND')
  const socket = one.seat.descriptor('udp').toDatagram()
  const { port } = socket.address()
  const hand = createServer().listen(one.seat.listener('hand'))
  await once(hand, 'listening')
  const place = hand.address()
  for (const name of ['packets', 'datagrams']) one.seat.descriptor(name).close()
  await one.seat.ready()
  t.deepEqual(one.reports, [])

  const two = await seated({ path })
  t.deepEqual(two.seat.names.sort(), ['datagrams', 'hand', 'packets', 'udp'])
  await two.seat.bind('udp', { ...udp, port })
  await two.seat.bind('hand', same) // the same socket, so passfd closes the second Descriptor of it
  t.true(same.closed)
  const next = two.seat.descriptor('udp').toDatagram()
  const server = createServer()
  await two.seat.listen('hand', server)
  const copies = ['packets', 'datagrams'].map(name => two.seat.descriptor(name))
  t.deepEqual(
    copies.map(({ kind }) => kind),
    ['unix-seqpacket-listener', 'unix-dgram']
  )
  socket.close()
  hand.close()
  await two.seat.ready()
  await one.seat.ended
  t.deepEqual(server.address(), place)
  t.deepEqual(two.reports, [])
  const message = once(next, 'message')
  const client = dgram.createSocket('udp4')
  client.send('hello', port, '127.0.0.1')
  t.is(String((await message)[0]), 'hello')
  const packet = native.socket(PACKETS)
  t.is(native.connect(packet, Buffer.from(places[0])), 0)
  native.close(packet)
  for (const each of [client, next]) each.close()
  for (const copy of copies) copy.close()
  await end(two.seat)
})

test('a candidate hears why it is refused by a code of its own', async t => {
  const path = temporaryPath('seat')
  const one = await first(path, { busy: 'refuse' })
  const two = await seated({ path, listeners: HTTP })
  const busy = await rejects(t, seated({ path, listeners: HTTP }), 'ERR_PASSFD_TAKEOVER_BUSY')
  t.like(busy, { remote: { data: { pid: process.pid } } })
  t.is(await answerAt(one.port), 'first')
  await two.seat[Symbol.asyncDispose]()
  await end(one.seat)

  const server = await listen(path)
  server.serve(() => {
    throw Object.assign(new Error('it needs wings'), { code: 'ERR_PASSFD_TAKEOVER_VERSION' })
  })
  const old = await rejects(t, seated({ path, listeners: HTTP }), 'ERR_PASSFD_TAKEOVER_VERSION')
  t.regex(old.message, /it answers "it needs wings"/)
  await server.close()
})

test('a lame duck can be superseded: that ends its time', async t => {
  const path = temporaryPath('seat')
  const old = await first(path, { name: 'old', lameDuck: 600_000 })
  const stopped = old.seat.stop()
  t.true(old.seat.lameDuck.aborted)
  t.false(old.seat.signal.aborted)
  t.is(await answerAt(old.port), 'old')
  const successor = await first(path, { name: 'new' })
  await stopped
  t.true(old.seat.superseded)
  t.is(await answerAt(successor.port), 'new')
  await end(successor.seat)
})

test('the freeze of an attempt waits for that of an earlier one, and for its thaw', async t => {
  const path = temporaryPath('seat')
  const gate = deferred()
  const did: string[] = []
  let round = 0
  const old = await first(path, {
    freezeTimeout: 60_000,
    ready: {
      freeze: async () => {
        const mine = ++round
        did.push(`freeze ${mine}`)
        if (mine === 1) await gate.promise
        return mine
      },
      thaw: (state: number) => void did.push(`thaw ${state}`)
    }
  })
  const gone = await seated({ path, listeners: HTTP })
  const failed = t.throwsAsync(gone.seat.inherit())
  await until(() => round === 1, 'its freeze')
  await gone.seat[Symbol.asyncDispose]()
  await failed
  const next = await seated({ path, listeners: HTTP })
  await next.seat.listen('http', naming('next'))
  const inheriting = next.seat.inherit()
  gate.resolve()
  t.is(await inheriting, 2)
  await next.seat.ready()
  t.deepEqual(did, ['freeze 1', 'thaw 1', 'freeze 2'])
  await end(next.seat, old.seat)
})

test('a candidate gets each part of a state once; when it goes, its owner accepts again', async t => {
  const thawn = deferred()
  const pipe = Descriptor.pipe()
  const state = { pipe: pipe.readable }
  const path = temporaryPath('seat')
  const one = await first(path, { ready: { freeze: () => state, thaw: () => thawn.resolve() } })
  const candidate = await connect<any, any>(path)
  const life = Descriptor.pipe()
  const ask = (value: object) => candidate.request(value, { descriptors: 253 })
  const program = { pid: process.pid, passfd: '', runtime: '' }
  const offer: any = await ask({ do: 'begin', takeover: 1, needs: [], program, life: life.readable })
  t.like(await ask({ do: 'freeze' }), { parts: 1, descriptors: 1 })
  const part: any = await ask({ do: 'state', part: 0 })
  t.is(part.descriptors.length, 1)
  const { remote } = (await rejects(t, ask({ do: 'state', part: 0 }), 'ERR_PASSFD_REMOTE')) as PassfdError
  t.is(remote?.code, 'ERR_PASSFD_TAKEOVER_PROTOCOL')
  const all = [offer.path, offer.life, offer.decision, ...offer.listeners.map((one: any) => one.listener)]
  for (const descriptor of [...all, ...part.descriptors, life.writable]) descriptor.close()
  await candidate.close()
  await thawn.promise
  t.false(state.pipe.closed)
  t.is(await answerAt(one.port), 'first')
  await end(one.seat)
  pipe.readable.close()
  pipe.writable.close()
})

test('a stop during a freeze: when the attempt has failed, who waits in the queue is served before the end', async t => {
  for (const lameDuck of [0, 600_000]) {
    const path = temporaryPath('seat')
    const old = await first(path, { name: 'old', lameDuck, ready: { freeze: () => 1, thaw: () => {} } })
    const late = await seated({ path, listeners: HTTP })
    t.is(await late.seat.inherit(), 1)
    const waiting = answerAt(old.port)
    const stopped = old.seat.stop()
    await late.seat[Symbol.asyncDispose]()
    t.is(await waiting, 'old')
    void old.seat.stop() // a lame duck has no more time
    await stopped
  }
})
