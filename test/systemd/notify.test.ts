/** What a service says, to a socket of passfd's own and to none; test/systemd/manager.test.ts says it to systemd. */
import { setTimeout as later } from 'node:timers/promises'
import fc from 'fast-check'
import { bind, connect, type DatagramSocket } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { barrier, type Notification, notify, removeStored, storeDescriptor, watchdog } from '../../src/systemd/index.ts'
import { parseNotification, textOf } from '../../src/systemd/notification.ts'
import { socketPath } from '../helpers/path.ts'
import { limitOpenFiles, start } from '../helpers/process.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

const VARIABLES = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']

/** With these variables, and without the others. */
async function within(variables: Record<string, string>, work: () => Promise<void>): Promise<void> {
  for (const name of VARIABLES) delete process.env[name]
  Object.assign(process.env, variables)
  try {
    await work()
  } finally {
    for (const name of VARIABLES) delete process.env[name]
  }
}

/** A manager that keeps what it gets, and closes descriptors as systemd does. */
async function heard(
  address: string | undefined,
  work: (heard: string[], socket: DatagramSocket) => Promise<void>
): Promise<void> {
  const socket = await bind(address)
  const texts: string[] = []
  socket.on('message', ({ data }) => texts.push(Buffer.from(data).toString()))
  const name =
    typeof socket.address === 'string'
      ? socket.address
      : 'path' in socket.address!
        ? socket.address.path
        : `@${socket.address!.abstract}`
  await within({ NOTIFY_SOCKET: name }, () => work(texts, socket))
  await socket.close()
}

test('without a manager all answer false, at once and without a try; wrong arguments are errors all the same', t =>
  within({}, async () => {
    const memory = Descriptor.memfd('x')
    t.false(await notify({ ready: true }))
    t.false(await barrier())
    t.false(await storeDescriptor('x', memory))
    t.false(await removeStored('x'))
    t.false(watchdog())
    t.false(memory.closed)
    const code = 'ERR_PASSFD_INVALID_ARGUMENT'
    for (const wrong of [
      {},
      { ready: false },
      { ready: 1 },
      { status: 'a\nREADY=1' },
      { status: 'a\0' },
      { status: '\ud800' },
      { status: 1 },
      { errno: 0 },
      { errno: 1.5 },
      { mainPid: -1 },
      { mainPid: '1' },
      { watchdog: false },
      { watchdogInterval: 0 },
      { extendTimeout: Number.NaN },
      { notifyAccess: 'everybody' },
      { fields: { READY: '1' } },
      { fields: { X_A: 'a\nb' } },
      { fields: { X_: '' } },
      { fields: null },
      { redy: true },
      null,
      undefined,
      'READY=1'
    ])
      await t.throwsAsync(notify(wrong as never), { code }, JSON.stringify(wrong))
    for (const name of ['', 'a:b', 'ä', 'x'.repeat(256), 'a\n', 'passfd-probe', 1]) {
      await t.throwsAsync(storeDescriptor(name as never, memory), { code }, String(name))
      await t.throwsAsync(removeStored(name as never), { code }, String(name))
    }
    await t.throwsAsync(storeDescriptor('x', 3 as never), { code })
    await t.throwsAsync(storeDescriptor('x', memory, { poll: 1 as never }), { code })
    // An event loop's, which the next process would take for its own
    const [loop] = [...openDescriptors()].find(([, name]) => name === 'anon_inode:[eventpoll]')!
    const copy = Descriptor.from(loop)
    await t.throwsAsync(storeDescriptor('x', copy), { code, message: /epoll/ })
    copy.close()
    await t.throwsAsync(barrier({ timeout: -1 }), { code })
    await t.throwsAsync(notify({ status: 'x'.repeat(4090) }), { code: 'ERR_PASSFD_NOTIFICATION_TOO_LONG' })
    memory.close()
    await t.throwsAsync(storeDescriptor('x', memory), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  }))

test('every property has its field; a path and an abstract name; in the order of the calls', async t => {
  for (const address of [undefined, socketPath()])
    await heard(address, async texts => {
      const all: Notification = {
        ready: true,
        stopping: true,
        status: 'all = well ä',
        errno: 11,
        mainPid: 7,
        watchdog: true,
        watchdogInterval: 1500,
        extendTimeout: 2,
        notifyAccess: 'exec',
        fields: { X_MINE: '', X_2: '=' }
      }
      const before = process.hrtime.bigint() / 1000n
      t.deepEqual(await Promise.all([notify(all), notify({ reloading: true }), notify({ watchdog: 'trigger' })]), [
        true,
        true,
        true
      ])
      await until(() => texts.length === 3, 'all of them')
      t.is(
        texts[0],
        'READY=1\nSTOPPING=1\nSTATUS=all = well ä\nERRNO=11\nMAINPID=7\nWATCHDOG=1\nWATCHDOG_USEC=1500000\nEXTEND_TIMEOUT_USEC=2000\nNOTIFYACCESS=exec\nX_MINE=\nX_2=='
      )
      const [, microseconds] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(texts[1]!) ?? []
      t.true(BigInt(microseconds!) >= before)
      t.is(texts[2], 'WATCHDOG=trigger')
    })
})

test('what is written is what is read', t => {
  const line = fc.string({ unit: 'grapheme', maxLength: 50 }).filter(text => !/[\0-\x1f\x7f-\x9f]/.test(text))
  fc.assert(
    fc.property(
      fc.record({ status: line, errno: fc.integer({ min: 1, max: 4095 }), own: line }),
      ({ status, errno, own }) => {
        const fields = parseNotification(Buffer.from(textOf({ ready: true, status, errno, fields: { X_OWN: own } })))
        t.deepEqual(Object.fromEntries(fields), { READY: '1', STATUS: status, ERRNO: `${errno}`, X_OWN: own })
      }
    )
  )
})

test('a manager that is gone, or does not listen to Unix sockets, or does not answer: an error, and nothing is left', async t => {
  const memory = Descriptor.memfd('x')
  await within({ NOTIFY_SOCKET: '/nowhere/notify' }, async () => {
    await t.throwsAsync(notify({ ready: true }), { code: 'ENOENT' })
    await t.throwsAsync(barrier(), { code: 'ENOENT' })
    await t.throwsAsync(storeDescriptor('x', memory), { code: 'ENOENT' })
  })
  await within({ NOTIFY_SOCKET: 'vsock:2:1' }, async () => {
    await t.throwsAsync(notify({ ready: true }), { code: 'ERR_PASSFD_NOTIFY_SOCKET' })
    await t.throwsAsync(storeDescriptor('x', memory), { code: 'ERR_PASSFD_NOTIFY_SOCKET' })
  })
  // One that keeps every pipe open
  const kept: Descriptor[] = []
  await heard(undefined, async (_texts, socket) => {
    socket.on('message', message => kept.push(...message.descriptors.map(descriptor => descriptor.claim())))
    await t.throwsAsync(barrier({ timeout: 20 }), { code: 'ERR_PASSFD_NOTIFY_TIMEOUT' })
    await t.throwsAsync(storeDescriptor('x', memory, { timeout: 20 }), { code: 'ERR_PASSFD_NOTIFY_TIMEOUT' })
    await until(() => kept.length >= 3, 'the pipes')
  })
  for (const descriptor of [memory, ...kept]) descriptor.close()
})

test('a program need not await them: a failure to send is no unhandled rejection, and a wrong argument is one', t =>
  within({ NOTIFY_SOCKET: '/nowhere/notify' }, async () => {
    const unhandled: unknown[] = []
    const onUnhandled = (error: unknown): void => void unhandled.push(error)
    // Other listeners are ava's, which end the run
    const others = process.listeners('unhandledRejection')
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', onUnhandled)
    const memory = Descriptor.memfd('x')
    try {
      void notify({ ready: true })
      void barrier()
      void removeStored('x')
      void storeDescriptor('x', memory)
      await barrier().catch(() => {})
      await later(0)
      t.deepEqual(unhandled, [])
      void notify({ redy: true } as never)
      await later(0)
      t.like(unhandled, [{ code: 'ERR_PASSFD_INVALID_ARGUMENT' }])
    } finally {
      process.off('unhandledRejection', onUnhandled)
      for (const other of others) process.on('unhandledRejection', other)
      memory.close()
    }
  }))

test('at the limit of open files: a rejection that nobody needs to catch, too', async t => {
  const doors = ['systemd/index.js', 'index.js'].map(door => new URL(`../../build/dist/${door}`, import.meta.url).href)
  const source = `
    const [{ barrier, storeDescriptor }, { Descriptor }] = await Promise.all(${JSON.stringify(doors)}.map(door => import(door)))
    const memory = Descriptor.memfd('x')
    console.log('here')
    process.stdin.once('data', async () => {
      void storeDescriptor('x', memory)
      void barrier()
      console.log(await storeDescriptor('x', memory).catch(({ code }) => code), await barrier().catch(({ code }) => code))
      setImmediate(() => process.exit())
    })`
  const { child, line, exit } = start(process.execPath, ['--input-type=module', '-e', source], {
    env: { ...process.env, NOTIFY_SOCKET: '/nowhere/notify' }
  })
  t.is(await line(), 'here')
  limitOpenFiles(child.pid!, 3)
  child.stdin!.write('x')
  t.is(await line(), 'EMFILE EMFILE')
  t.is((await exit).code, 0)
})

test('an address that is none: its variable is named', async t => {
  const memory = Descriptor.memfd('x')
  for (const address of ['@', ' ', 'relative', './x', 'vsock:2:1', 'file:///x', `@${'x'.repeat(108)}`])
    await within({ NOTIFY_SOCKET: address }, async () => {
      const expected = { code: 'ERR_PASSFD_NOTIFY_SOCKET' }
      await t.throwsAsync(notify({ ready: true }), expected, address)
      await t.throwsAsync(barrier(), expected, address)
      await t.throwsAsync(removeStored('x'), expected, address)
      await t.throwsAsync(storeDescriptor('x', memory), expected, address)
    })
  memory.close()
})

test('a limit counts from the call: behind another one, and behind a manager whose queue is full', async t => {
  const memory = Descriptor.memfd('x')
  const limits = async (): Promise<void> => {
    const began = performance.now()
    const late = { code: 'ERR_PASSFD_NOTIFY_TIMEOUT' }
    const first = barrier({ timeout: 60_000 })
    await Promise.all([
      t.throwsAsync(barrier({ timeout: 30 }), late),
      t.throwsAsync(storeDescriptor('x', memory, { timeout: 30 }), late),
      t.throwsAsync(storeDescriptor('x', memory, { timeout: 30 }), late)
    ])
    t.true(performance.now() - began < 10_000)
    void first.catch(() => {})
  }
  // Nobody reads it: the barrier's pipe stays open
  await heard(undefined, async (_texts, socket) => {
    const kept: Descriptor[] = []
    socket.on('message', message => kept.push(...message.descriptors.map(descriptor => descriptor.claim())))
    await limits()
    // What came too late is not sent any more, and what is sent later leaves all the same
    t.true(await notify({ status: 'later' }))
    for (const descriptor of kept) descriptor.close()
  })
  const full = await bind(undefined)
  await within({ NOTIFY_SOCKET: `@${(full.address as { abstract: string }).abstract}` }, async () => {
    const sent = Array.from({ length: 1000 }, () => notify({ status: 'x'.repeat(4000) }))
    await limits()
    const texts: string[] = []
    full.on('message', ({ data }) => texts.push(Buffer.from(data).toString()))
    t.true((await Promise.all(sent)).every(Boolean))
    await until(() => texts.length >= 1000, 'all of them')
    t.false(texts.some(text => text.startsWith('FDSTORE')))
  })
  await full.close()
  memory.close()
})

test('what waits for the manager delays nothing else: neither pings nor notifications', async t => {
  const memory = Descriptor.memfd('x')
  const kept: Descriptor[] = []
  await heard(undefined, async (texts, socket) => {
    socket.on('message', message => kept.push(...message.descriptors.map(descriptor => descriptor.claim())))
    const waiting = [barrier({ timeout: 0 }), storeDescriptor('x', memory, { timeout: 0 }), removeStored('y')]
    Object.assign(process.env, { WATCHDOG_USEC: '40000' })
    const dog = watchdog()
    if (dog === false) return t.fail()
    await until(() => texts.filter(text => text === 'WATCHDOG=1').length >= 3, 'pings')
    dog.stop()
    t.true(await notify({ status: 'here' }))
    await until(() => texts.includes('STATUS=here'), 'it')
    // What is removed is removed after what was stored before
    t.false(texts.some(text => text.includes('FDNAME=y')))
    for (;;) {
      const next = kept.shift()
      if (next !== undefined) next.close()
      else if (texts.some(text => text.includes('FDNAME=y'))) break
      await later(1)
    }
    t.true(await waiting[0]!)
    await Promise.allSettled(waiting)
  })
  for (const descriptor of kept) descriptor.close()
  memory.close()
})

test('a ping that waits for the manager keeps no process running, and lets no other message fall', async t => {
  const full = await bind(undefined)
  const { abstract } = full.address as { abstract: string }
  const filler = await connect({ abstract })
  for (let count = 0; count < 600; count++) void filler.send('x')
  const door = new URL('../../build/dist/systemd/index.js', import.meta.url).href
  const run = (last: string) =>
    start(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `
      import { notify, watchdog } from ${JSON.stringify(door)}
      watchdog()
      await new Promise(resolve => setTimeout(resolve, 20))
      console.log('here')
      ${last}`
      ],
      { env: { ...process.env, NOTIFY_SOCKET: `@${abstract}`, WATCHDOG_USEC: '2000' } }
    )
  t.like(await run('').exit, { code: 0, stderr: '' })
  const waits = run(`await notify({ stopping: true }); console.log('sent')`)
  t.is(await waits.line(), 'here')
  const texts: string[] = []
  full.on('message', ({ data }) => texts.push(Buffer.from(data).toString()))
  t.is(await waits.line(), 'sent')
  t.like(await waits.exit, { code: 0, stderr: '' })
  await until(() => texts.includes('STOPPING=1'), 'the message')
  await filler.close()
  await full.close()
})

test('the watchdog pings in each half of the interval, until it is stopped; not for another process', async t => {
  await heard(undefined, async texts => {
    process.env.WATCHDOG_USEC = '40000'
    process.env.WATCHDOG_PID = '1'
    t.false(watchdog())
    process.env.WATCHDOG_PID = `${process.pid}`
    const dog = watchdog()
    if (dog === false) return t.fail()
    t.is(dog.interval, 40)
    const began = performance.now()
    await until(() => texts.length >= 5, 'pings')
    t.true(performance.now() - began >= 70)
    dog.stop()
    await later(0)
    const { length } = texts
    await notify({ status: 'last' })
    await until(() => texts.at(-1) === 'STATUS=last', 'the last one')
    t.true(texts.length <= length + 2)
    t.true(texts.slice(0, -1).every(text => text === 'WATCHDOG=1'))
    for (const wrong of ['0', 'x', '-1', '', '0x10', '1e6', ' 5 ', '1.5', '18446744073709551615']) {
      process.env.WATCHDOG_USEC = wrong
      t.false(watchdog(), wrong)
    }
  })
})
