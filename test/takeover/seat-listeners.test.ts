/** The listeners of a seat: which of its predecessor's sockets are what its program asks for. */
import { resolve } from 'node:path'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { addressOf } from '../../src/serving/bound-socket.ts'
import { readListeners } from '../../src/serving/specs.ts'
import { SeatListeners } from '../../src/takeover/seat-listeners.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

type Specs = Record<string, object>

async function bound(specs: Specs): Promise<SeatListeners> {
  const listeners = new SeatListeners()
  for (const [name, spec] of readListeners(specs, 'listeners')) await listeners.bind(name, spec)
  return listeners
}

/** What becomes of one listener when a successor asks for it as `asked`: 'same', or 'new', and what is reported. */
async function changed(before: object, asked: object): Promise<string> {
  const old = await bound({ a: before })
  const young = new SeatListeners()
  const { port } = (old.lanes[0]!.listener.kind === 'unix-stream-listener' ? {} : portOf(old)) as { port?: number }
  const [spec] = readListeners({ a: 'port' in asked && asked.port === true ? { ...asked, port } : asked }, '').values()
  young.offer(old.copies(), 7)
  const offered = young.left.length
  // The old one is closed, so that a new one can be bound to the port
  await old.close(false)
  const { length } = young.left
  const reports = await young.bind('a', spec!)
  const same = length === offered && young.left.length === 0
  await young.close(true)
  await old.close(true)
  return [same ? 'same' : 'new', ...reports.map(({ code }) => code)].join(' ')
}

function portOf(listeners: SeatListeners): { port: number } {
  return addressOf(listeners.lanes[0]!.listener.borrow()) as { port: number }
}

test('a listener is the predecessor’s if its name and address are the same', async t => {
  const path = temporaryPath('unix')
  const local = '127.0.0.1'
  const cases: [before: object, asked: object, outcome: string][] = [
    [{ port: 0, host: local }, { port: 0, host: local }, 'same'],
    [{ port: 0, host: local }, { port: true, host: local }, 'same'],
    [{ port: 0, host: local }, { port: 0, host: '127.0.0.2' }, 'new address'],
    [{ port: 0, host: 'localhost' }, { port: true, host: 'localhost' }, 'same'],
    [{ port: 0 }, { port: true }, 'same'],
    [{ port: 0 }, { port: true, host: '::' }, 'same'],
    [{ port: 0 }, { port: 0, host: local }, 'new address'],
    [{ port: 0, host: local, backlog: 100 }, { port: true, host: local, backlog: 100 }, 'same'],
    [{ port: 0, host: local, backlog: 100 }, { port: true, host: local }, 'same options'],
    [{ port: 0, host: '::1' }, { port: true, host: '::1', ipv6Only: true }, 'same options'],
    [{ path }, { path }, 'same'],
    [{ path }, { path: resolve(path, '..', 'x', '..', path) }, 'same'],
    [{ path, mode: 0o600 }, { path, mode: 0o660 }, 'same options'],
    [{ path }, { path: temporaryPath('unix') }, 'new address'],
    [{ path }, { port: 0, host: local }, 'new address'],
    [{ port: 0, host: local }, { path: temporaryPath('unix') }, 'new address'],
    [{ type: 'udp4', port: 0, address: local }, { type: 'udp4', port: true, address: local }, 'same'],
    [{ type: 'udp4', port: 0, address: local }, { port: 0, host: local }, 'new address'],
    [{ type: 'udp4', port: 0 }, { type: 'udp6', port: 0 }, 'new address']
  ]
  for (const [before, asked, outcome] of cases)
    t.is(await changed(before, asked), outcome, `${JSON.stringify(before)} → ${JSON.stringify(asked)}`)
})

test('what is left, taken and dropped', async t => {
  const local = { port: 0, host: '127.0.0.1' }
  const old = await bound({ a: local, b: local, c: local })
  const young = new SeatListeners()
  young.offer(old.copies(), 7)
  t.deepEqual(young.undecided(['b']), ['a', 'c'])
  await young.bind('a', readListeners({ a: local }, '').get('a')!)
  t.deepEqual(young.left, ['b', 'c'])
  t.deepEqual(young.undecided([]), ['b', 'c'])
  young.takeAll()
  t.deepEqual([...young.grants.keys()].sort(), ['a', 'b', 'c'])
  young.leave(['c', 'unknown'])
  t.deepEqual(young.left, ['c'])
  t.deepEqual([...young.grants.keys()].sort(), ['a', 'b'])
  const c = young.lanes.length
  t.is(c, 2)
  young.closeLeft()
  young.closeLeft()
  t.deepEqual(young.left, [])
  // A name has one address
  await t.throwsAsync(young.bind('a', readListeners({ a: { ...local, host: '127.0.0.2' } }, '').get('a')!), {
    code: 'ERR_PASSFD_LISTENER_SERVED'
  })
  const copies = young.copies()
  t.like(copies, [{ name: 'a', lane: 0, kind: 'tcp-listener', options: { ...local, own: true } }, { name: 'b' }])
  for (const { listener } of copies) listener.close()
  await young.close(false)
  await old.close(true)
})

test('a Descriptor of the same socket is closed; of another kind of thing, refused', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const same = listener.dup()
  const [left, right] = Descriptor.socketpair()
  const young = await bound({ a: listener })
  t.true(listener.closed)
  t.deepEqual(await young.bind('a', same), [])
  t.true(same.closed)
  await t.throwsAsync(young.bind('b', left), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  left.close()
  right.close()
  await young.close(true)
})
