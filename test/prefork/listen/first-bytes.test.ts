/** Connections whose first bytes decide: who is asked, when, and what becomes of the connection. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { moveOut } from '../../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../../src/index.ts'
import { MESSAGE_FIRST, native, RESULT_DESCRIPTORS } from '../../../src/os/native.ts'
import { FirstBytes } from '../../../src/prefork/listen/first-bytes.ts'
import { addressOf } from '../../helpers/facts.ts'
import { test, until } from '../../helpers/test.ts'

type Rule = (head: string, ended: boolean) => string | undefined

/** Wants a whole line. */
const line: Rule = (head, ended) => (head.endsWith('\n') ? 'line' : ended ? 'ended' : undefined)

interface Asking {
  heads: FirstBytes<string>
  /** `head` or, when that is all, `head.` */
  asked: string[]
  addresses: (string | undefined)[]
  taken: { fd: number; place: string }[]
  /** A connection; the other end of it is the client's. */
  add(address?: string): Socket
  end(): void
}

function asking(rule: Rule, { maxHead = 64, timeout = 60_000 } = {}): Asking {
  const asked: string[] = []
  const addresses: (string | undefined)[] = []
  const taken: Asking['taken'] = []
  const clients: Socket[] = []
  const heads = new FirstBytes<string>(maxHead, timeout, {
    decide(head, ended, address) {
      asked.push(`${head}${ended ? '.' : ''}`)
      addresses.push(address)
      return rule(String(head), ended)
    },
    take: (fd, place) => void taken.push({ fd, place })
  })
  return {
    heads,
    asked,
    addresses,
    taken,
    add(address) {
      const [ours, theirs] = Descriptor.socketpair()
      const client = theirs.toSocket()
      clients.push(client)
      heads.add(moveOut(ours, 'the test'), address)
      return client
    },
    end() {
      heads.close()
      for (const client of clients) client.destroy()
      for (const { fd } of taken) native.close(fd)
    }
  }
}

/** All that can be read now. */
function read(fd: number): string {
  const bytes = Buffer.alloc(256)
  return bytes.toString('latin1', 0, native.receivePlaced(fd, bytes, 0, 256, new Int32Array(1024)))
}

/** So many turns of the loop see all that is due now. */
async function turns(count = 50): Promise<void> {
  for (let i = 0; i < count; i++) await turn()
}

test('it is asked when bytes have come, and only when more have; what it saw is still to be read', async t => {
  const { add, asked, addresses, taken, end } = asking(line)
  const client = add('192.0.2.1')
  await turns()
  t.deepEqual(asked, [])
  for (const [part, count] of [
    ['GET', 1],
    [' /', 2],
    ['\n', 3]
  ] as const) {
    client.write(part)
    await until(() => asked.length === count, part)
    await turns()
  }
  t.deepEqual(asked, ['GET', 'GET /', 'GET /\n'])
  t.deepEqual(addresses, Array(3).fill('192.0.2.1'))
  t.is(taken.length, 1)
  t.is(taken[0]!.place, 'line')
  client.write('more')
  await turns()
  t.is(asked.length, 3)
  t.is(read(taken[0]!.fd), 'GET /\nmore')
  end()
})

test('bytes that do not suffice keep nobody busy', async t => {
  const { add, asked, end } = asking(line)
  const clients = [add(), add(), add()]
  for (const client of clients) client.write('x')
  await until(() => asked.length === 3, 'all were asked about')
  const { edgeReady, peek } = native
  let calls = 0
  const counted =
    <Arguments extends unknown[]>(call: (...values: Arguments) => number) =>
    (...values: Arguments) => {
      calls++
      return call(...values)
    }
  Object.assign(native, { edgeReady: counted(edgeReady), peek: counted(peek) })
  try {
    await turns(500)
    t.is(calls, 0)
    clients[1]!.write('y')
    await until(() => asked.length === 4, 'news')
    await turns(500)
    t.deepEqual(asked, ['x', 'x', 'x', 'xy'])
    t.is(calls, 2)
  } finally {
    Object.assign(native, { edgeReady, peek })
    end()
  }
})

test('what is there at once is looked at at once', t => {
  const { heads, asked, taken, end } = asking(line)
  const [ours, theirs] = Descriptor.socketpair()
  native.send(theirs.borrow(), Buffer.from('all\n'), 0, 4, new Int32Array(1), 0, 0)
  heads.add(moveOut(ours, 'the test'), undefined)
  t.deepEqual(asked, ['all\n'])
  t.is(taken[0]!.place, 'line')
  theirs.close()
  end()
})

test('maxHead bytes are all that there is to see: one less waits for more', async t => {
  for (const [length, expected] of [
    [7, undefined],
    [8, 'ended'],
    [9, 'ended']
  ] as const) {
    const { add, asked, taken, end } = asking(line, { maxHead: 8 })
    add().write('x'.repeat(length))
    await until(() => asked.length === 1, 'asked')
    t.deepEqual(asked, [expected === undefined ? 'x'.repeat(length) : `${'x'.repeat(8)}.`])
    t.is(taken[0]?.place, expected)
    if (expected !== undefined) t.is(read(taken[0]!.fd).length, length)
    end()
  }
})

test('after headTimeout it is asked a last time, in the order of their coming, whether or not bytes have come', async t => {
  const { add, asked, taken, end } = asking(line, { timeout: 40 })
  add().write('first')
  await until(() => asked.length === 1, 'asked')
  add()
  await until(() => taken.length === 2, 'time is over')
  t.deepEqual(asked.slice(-2), ['first.', '.'])
  t.deepEqual(
    taken.map(({ place }) => place),
    ['ended', 'ended']
  )
  add().write('third') // and the clock runs again
  await until(() => taken.length === 3, 'time is over again')
  t.is(asked.at(-1), 'third.')
  end()
})

test('a client that half-closes has said all', async t => {
  const { add, asked, taken, end } = asking(line)
  add().end()
  await until(() => taken.length === 1, 'decided')
  const client = add()
  client.write('hal')
  await until(() => asked.length === 2, 'asked')
  client.end('f')
  await until(() => taken.length === 2, 'decided')
  t.deepEqual(asked.slice(0, 2), ['.', 'hal'])
  t.is(asked.at(-1), 'half.')
  t.is(read(taken[1]!.fd), 'half')
  end()
})

test('a connection that is reset is closed, and nobody is asked', async t => {
  const { heads, asked, taken, end } = asking(line)
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = await addressOf(listener)
  const held = native.held()
  const fds = new Int32Array(2)
  for (const before of [true, false]) {
    const client = connect(port, '127.0.0.1')
    await once(client, 'connect')
    t.is(native.acceptMany(listener.borrow(), fds, 1, null), 1)
    if (!before) heads.add(fds[0]!, '127.0.0.1')
    client.resetAndDestroy()
    await once(client, 'close')
    if (before) heads.add(fds[0]!, '127.0.0.1')
    await until(() => native.held() === held, 'it is closed')
  }
  t.deepEqual(asked, [])
  t.deepEqual(taken, [])
  listener.close()
  end()
})

test('of too many the one that has waited longest has to do with what is there', async t => {
  const { add, asked, taken, end } = asking(line)
  const { limit } = native
  Object.assign(native, { limit: () => 40 }) // a quarter of it waits
  try {
    add().write('oldest')
    await until(() => asked.length === 1, 'asked')
    for (let i = 1; i < 10; i++) add()
    t.is(taken.length, 0)
    add().write('newest\n')
    t.deepEqual(asked, ['oldest', 'oldest.'])
    await until(() => taken.length === 2, 'the newest was waited for')
    t.is(asked.at(-1), 'newest\n')
  } finally {
    Object.assign(native, { limit })
    end()
  }
})

test('thousands that say nothing are held, no more than 4,096', t => {
  const { add, asked, taken, end } = asking(line)
  for (let i = 0; i < 4096; i++) add()
  t.is(asked.length, 0)
  for (let i = 0; i < 3; i++) add()
  t.deepEqual(asked, ['.', '.', '.'])
  t.is(taken.length, 3)
  end()
})

test('at the end each is asked a last time, once, even if it was the asked one who ended it', async t => {
  const { heads, add, asked, taken, end } = asking(head => {
    if (head === 'stop') heads.close()
    return 'somewhere'
  })
  add()
  add('192.0.2.2').write('stop')
  add()
  await until(() => taken.length === 3, 'all')
  t.deepEqual(asked.toSorted(), ['.', '.', 'stop', 'stop.'])
  t.is(new Set(taken.map(({ fd }) => fd)).size, 3)
  add() // what comes later
  t.is(taken.length, 4)
  t.is(asked.at(-1), '.')
  end()
})

test('the descriptors of a first message are not installed by looking at it', async t => {
  const { heads, taken, asked, end } = asking(line)
  const [ours, theirs] = Descriptor.socketpair()
  const passenger = Descriptor.openSync('/dev/null')
  heads.add(moveOut(ours, 'the test'), undefined)
  const held = native.held()
  native.send(theirs.borrow(), Buffer.from('here'), 0, 4, Int32Array.of(passenger.borrow()), 0, 1)
  await until(() => asked.length === 1, 'asked')
  t.is(native.held(), held)
  native.send(theirs.borrow(), Buffer.from('\n'), 0, 1, new Int32Array(1), 0, 0)
  await turns()
  t.deepEqual(asked, ['here']) // the kernel shows nothing beyond them
  theirs.close()
  await until(() => taken.length === 1, 'taken')
  const bytes = Buffer.alloc(16)
  const results = new Int32Array(MESSAGE_FIRST + 2 * 253)
  const length = native.receivePlaced(taken[0]!.fd, bytes, 0, 16, results)
  t.true(length > 0 && 'here\n'.startsWith(bytes.toString('latin1', 0, length)))
  t.is(results[RESULT_DESCRIPTORS], 1)
  native.closeMany(results, MESSAGE_FIRST, results[RESULT_DESCRIPTORS]!)
  passenger.close()
  end()
})
