/** Workers of other releases: an older and a newer control protocol, and what neither end knows. */
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { connect as connectChannel } from '../../../src/index.ts'
import { type FromSupervisor, NEWEST } from '../../../src/prefork/control/control.ts'
import { ControlLine, type LineOwner } from '../../../src/prefork/supervisor/control-line.ts'
import { patched } from '../../helpers/channels.ts'
import { times } from '../../helpers/full.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { only, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

const index = new URL('../../../build/dist/index.js', import.meta.url).href

const EMFILE = -24

/** A worker that speaks for itself: it joins with `join`, and then says what is left of the program. */
function fake(join: object, rest: string): string {
  return program(`
    import { connect, Descriptor } from '${index}'
    const authorize = () => true
    const control = await connect(Descriptor.adopt(3), { authorize })
    const channel = await connect(Descriptor.adopt(4), { authorize })
    const heard = []
    channel.serve(() => heard)
    const welcome = await control.request(${JSON.stringify(join)}, { descriptors: 253 })
    const listening = listener => {
      control.on('message', ({ value }) => { heard.push(value.type); listener(value) })
    }
    ${rest}`)
}

testInCi(
  'a worker of version 1: it is told nothing that it would stop for, and its answer names no version it must know',
  async t => {
    const entry = fake(
      { type: 'join', version: 1 },
      `listening(value => { if (!['lend', 'takeBack', 'connections'].includes(value.type)) process.exit(0) })
    await control.send({ type: 'uses', name: 'http', adopts: true })
    await control.request({ type: 'ready' }, { descriptors: 0 })
    setInterval(() => control.send({ type: 'beat', connections: 1, requests: 7, lag: 0 }), 20)`
    )
    await supervising(t, { entry }, async (supervisor, { exits }) => {
      await supervisor.start()
      await until(() => supervisor.workers[0]!.requests === 7, 'beats')
      await supervisor.reload()
      await only(supervisor, 2)
      process.kill(supervisor.workers[0]!.pid!, 'SIGKILL')
      await only(supervisor, 3)
      await supervisor.scale(times(1, 2))
      await supervisor.stop()
      t.deepEqual(exits.slice(0, 3), ['0/1 0', '0/2 SIGKILL', '0/3 0'])
    })
  }
)

test('a newer worker is spoken to as both can; what it says beyond that is passed over', async t => {
  const entry = fake(
    { type: 'join', version: NEWEST, newest: 9, debugPort: 'none', features: ['telepathy'] },
    `if (welcome.version !== ${NEWEST}) throw new Error('version ' + welcome.version)
    listening(value => { if (value.type === 'stop') process.exit(0) })
    for (const odd of [{ type: 'new kind', with: [1, 2] }, { kind: 'no type' }, null, 'text', 7, [], { type: 3 }]) await control.send(odd)
    heard.push(await control.request({ type: 'new question' }))
    await control.request({ type: 'ready', since: 5 }, { descriptors: 0 })
    await control.send({ type: 'beat', connections: 1, requests: 2, lag: 3, inspector: undefined, temperature: 36.6 })`
  )
  await supervising(t, { entry, hangTimeout: 0 }, async (supervisor, { exits }) => {
    await supervisor.start()
    await until(() => supervisor.workers[0]!.requests === 2, 'the beat')
    t.deepEqual(await supervisor.workers[0]!.channel.request({}), [undefined])
    await supervisor.stop()
    t.deepEqual(exits, ['0/1 0'])
  })
})

testInCi('what a worker passes on and is no connection is refused, and no other worker gets it', async t => {
  const entry = fake(
    { type: 'join', version: 1, newest: NEWEST },
    `await control.send({ type: 'uses', name: 'http', adopts: true })
    listening(value => { if (value.type === 'stop') process.exit(0) })
    if (welcome.slot === 1) // a worker that is ready may pass nothing on
      for (const connections of [[Descriptor.openSync('/dev/null')], 'none', [7], undefined, [Descriptor.socketpair()[0], Descriptor.openSync('/dev/null')]])
        await control.request({ type: 'idle', name: 'http', connections }, { descriptors: 0 }).catch(({ code }) => heard.push(code))
    await control.request({ type: 'ready' }, { descriptors: 0 })
    setInterval(() => control.send({ type: 'beat', connections: 1, requests: heard.length, lag: 3 }), 20)`
  )
  await supervising(t, { entry, workers: 2, balance: 'shared' }, async supervisor => {
    await supervisor.start()
    await until(() => supervisor.workers[1]?.requests === 5, 'all of them')
    const answers = await Promise.all(supervisor.workers.map(({ channel }) => channel.request({})))
    t.deepEqual(answers, [[], Array(5).fill('ERR_PASSFD_REMOTE')])
    await supervisor.stop()
  })
})

/** A worker of an older version that answers `words` on the connections that it is sent. */
function oldWorker(join: object, words: string): string {
  return fake(
    { type: 'join', version: 1, ...join },
    `listening(value => {
      if (value.type === 'stop') process.exit(0)
      for (const connection of value.connections) connection.toSocket().end('${words}')
    })
    await control.send({ type: 'uses', name: 'http', adopts: true })
    await control.request({ type: 'ready' }, { descriptors: 0 })
    setInterval(() => {}, 1000)`
  )
}

testInCi(
  'dispatch: workers of versions 1 and 2 are sent what the supervisor accepts for them, a newer one beside them accepts',
  async t => {
    const old = [oldWorker({ newest: 1 }, 'first'), oldWorker({ newest: 2 }, 'second')]
    // The first process that starts is the first of them, the second one is the second
    const marks = old.map(program => [temporaryPath('started'), program])
    const entry = program(`import { writeFileSync } from 'node:fs'
    const old = ${JSON.stringify(marks)}.find(([mark]) => {
      try { writeFileSync(mark, '', { flag: 'wx' }); return true } catch { return false }
    })
    if (old !== undefined) await import(old[1])
    else {
      const worker = await joinSupervisor()
      await worker.receive('http', connection => connection.toSocket().end('new'))
      await worker.ready()
    }`)
    await supervising(
      t,
      { entry, workers: 3, balance: { dispatch: 'round-robin' }, hangTimeout: 0 },
      async supervisor => {
        const told: (string | undefined)[] = []
        supervisor.on('acceptError', error => told.push(error.code))
        await supervisor.start()
        const { port } = supervisor.address('http') as { port: number }
        const each = times(20, 50)
        const ask = async (count: number) => {
          const answers = await Promise.all(Array.from({ length: count }, () => text(connect(port, '127.0.0.1'))))
          return ['first', 'second', 'new'].map(kind => answers.filter(answer => answer === kind).length)
        }
        t.deepEqual(await ask(3 * each), [each, each, each])
        // At a limit of open files it is tried again
        let left = 1
        await patched(
          'acceptMany',
          original =>
            (...given) =>
              left-- > 0 ? EMFILE : original(...given),
          async () => {
            const [first = 0, second = 0, newest = 0] = await ask(3)
            t.is(first + second + newest, 3)
          }
        )
        t.deepEqual(told, ['EMFILE'])
        await supervisor.stop()
      }
    )
  }
)

testInCi(
  'dispatch: a worker of this version gets memory to count in, and orders with a place there; one of version 5 is told nothing of it',
  async t => {
    for (const newest of [NEWEST, 5]) {
      // It finds no connection the first two times, whatever waits, and keeps the third order
      const entry = fake(
        { type: 'join', version: 1, newest },
        `let orders = 0
        control.on('message', ({ value: { type, name, count, place, memory } }) => {
          if (type === 'stop') process.exit(0)
          heard.push([type, type === 'accept' ? [count, place ?? 'none'] : memory?.kind])
          if (type === 'accept' && ++orders < 3) void control.send({ type: 'accepted', name, count, taken: 0 })
        })
        await control.send({ type: 'uses', name: 'http', adopts: true })
        await control.request({ type: 'ready' }, { descriptors: 0 })
        setInterval(() => control.send({ type: 'beat', connections: 0, requests: orders, lag: 0 }), 20)`
      )
      await supervising(t, { entry, balance: { dispatch: 'round-robin' } }, async supervisor => {
        await supervisor.start()
        const { port } = supervisor.address('http') as { port: number }
        const client = connect(port, '127.0.0.1').on('error', () => {})
        await until(() => supervisor.workers[0]!.requests === 3, 'three orders')
        const orders = Array(3).fill(['accept', [1, newest === 5 ? 'none' : 0]])
        const expected = newest === 5 ? orders : [['counts', 'memfd'], ...orders]
        t.deepEqual(await supervisor.workers[0]!.channel.request({}), expected)
        client.destroy()
      })
    }
  }
)

const REFUSAL = new RegExp(`versions 1 to ${NEWEST} of the control protocol, and the worker `)
const TOO_NEW = { version: NEWEST + 1, newest: NEWEST + 2 }

testInCi('versions that do not meet: the worker is refused, and the reason names both', async t => {
  const entry = fake({ type: 'join', ...TOO_NEW }, '')
  await supervising(t, { entry }, async supervisor => {
    const error = await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY' })
    t.regex(error!.message, REFUSAL)
  })
})

test('other versions that do not meet: the control line refuses the worker', async t => {
  for (const join of [TOO_NEW, { version: 0 }, { version: 'new' }, {}]) {
    const refused: string[] = []
    const owner: Partial<LineOwner> = { onHeard: () => {}, onException: () => {}, onEnd: () => {} }
    owner.onRefused = reason => void refused.push(reason)
    const [line, theirs] = ControlLine.open(true, owner as LineOwner)
    const worker = await connectChannel(theirs, { authorize: () => true })
    await t.throwsAsync(worker.request({ type: 'join', ...join }), { message: REFUSAL })
    t.is(refused.length, 1)
    t.regex(refused[0]!, REFUSAL)
    t.false(line.joined)
    worker.destroy()
    await line.lastWords()
  }
})

/** A supervisor that says things to a worker which this release does not know. */
test('a newer supervisor: a worker passes over what it does not know', async t => {
  const entry = program(
    `const worker = await joinSupervisor()
    await worker.ready()
    worker.channel.serve(() => 'still here')`
  )
  await supervising(t, { entry }, async supervisor => {
    // The only place where a test gets hold of the control channel
    const said: FromSupervisor[] = [{ type: 'new kind' }, null, 'text', { type: 7 }] as never
    const { WorkerProcess } = await import('../../../src/prefork/supervisor/worker-process.ts')
    const { stop } = WorkerProcess.prototype
    let worker: InstanceType<typeof WorkerProcess> | undefined
    WorkerProcess.prototype.stop = function (...options) {
      worker = this
      return worker === undefined ? stop.apply(this, options) : Promise.resolve()
    }
    try {
      await supervisor.start()
      void supervisor.stop() // it waits, and supervising() kills the worker
      await until(() => worker !== undefined, 'the worker')
      for (const one of said) await worker!.send(one)
      t.is(await worker!.channel.request({}), 'still here')
    } finally {
      WorkerProcess.prototype.stop = stop
    }
  })
})

test('a worker that joins twice, or counts what cannot be, is refused: each join takes memory, and a count changes what other workers get', async t => {
  const odd = [
    { type: 'join', version: NEWEST },
    ...[-1e9, 0.5, Number.NaN, '1', undefined].map(count => ({ type: 'accepted', name: 'http', count, taken: 0 })),
    ...[-1, 2, null].map(taken => ({ type: 'accepted', name: 'http', count: 1, taken })),
    ...[-1, Number.POSITIVE_INFINITY, '1'].map(count => ({ type: 'closed', count }))
  ]
  const heard: string[] = []
  const owner: Partial<LineOwner> = { onHeard: () => {}, onException: () => {}, onEnd: () => {} }
  owner.onJoin = () => {
    heard.push('join')
    return {} as never
  }
  owner.onClosed = count => void heard.push(`closed ${count}`)
  owner.onAccepted = ({ count, taken }) => void heard.push(`accepted ${count} ${taken}`)
  owner.onNonsense = reason => void heard.push(reason)
  const [line, theirs] = ControlLine.open(true, owner as LineOwner)
  const worker = await connectChannel(theirs, { authorize: () => true })
  await worker.request({ type: 'join', version: 1, newest: NEWEST })
  for (const message of odd) await worker.send(message)
  await t.throwsAsync(worker.request({ type: 'join', version: 1 }), { message: /a second join$/ })
  t.is(line.version, NEWEST)
  t.is(heard.length, 1 + odd.length, heard.join())
  for (const reason of heard.slice(1)) t.regex(reason, /understood: a second join$|^it has (sent a message|accepted) /)
  await worker.send({ type: 'closed', count: 0 })
  await worker.send({ type: 'accepted', name: 'http', count: 3, taken: 3 })
  await worker.request({ type: 'nothing' })
  t.deepEqual(heard.slice(1 + odd.length), ['closed 0', 'accepted 3 3'])
  await worker.close()
  await line.lastWords()
})
