import diagnostics from 'node:diagnostics_channel'
import { connect, listen, pair } from '../../src/index.ts'
import { closeAll, connected, file, nextMessage } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { rawPair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const NAMES = ['passfd:channel:open', 'passfd:channel:close', 'passfd:message:sent', 'passfd:message:received']

interface Event {
  name: string
  [field: string]: any
}

/** Everything that is published while `body` runs. */
async function record(body: (events: Event[]) => Promise<void>): Promise<Event[]> {
  const events: Event[] = []
  const listener = (event: unknown, name: string | symbol): void => {
    events.push({ name: String(name), ...(event as object) })
  }
  for (const name of NAMES) diagnostics.subscribe(name, listener)
  try {
    await body(events)
  } finally {
    for (const name of NAMES) diagnostics.unsubscribe(name, listener)
  }
  return events
}

test('channels tell when they open and close', async t => {
  const server = await listen(socketPath())
  let channel!: Awaited<ReturnType<typeof connect>>
  const events = await record(async () => {
    channel = await connect(server.address)
    await until(() => server.channels.size === 1, 'the server’s end')
    await server.close()
  })
  t.deepEqual(events.map(({ name }) => name).sort(), [
    'passfd:channel:close',
    'passfd:channel:close',
    'passfd:channel:open',
    'passfd:channel:open'
  ])
  const mine = events.filter(event => event.channel === channel)
  t.deepEqual(
    mine.map(({ name }) => name),
    ['passfd:channel:open', 'passfd:channel:close']
  )
  t.is(mine[0]!.peer.pid, process.pid)
  t.regex(mine[0]!.peer.agent, /^passfd\//)
  t.is(mine[1]!.error, undefined)
})

test('a channel’s end comes with its error', async t => {
  const { channel, peer } = await rawPair()
  const events = await record(async () => {
    peer.close()
    await channel.closed
  })
  t.is(events.length, 1)
  t.is(events[0]!.error, await channel.closed)
  t.is(events[0]!.error.code, 'ERR_PASSFD_DISCONNECTED')
})

test('messages tell when they are sent and received, answers don’t', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  const events = await record(async () => {
    left.send('message')
    await left.request('request')
  })
  t.deepEqual(
    events.map(({ name, channel, value, request, message }) => [
      name,
      channel === left ? 'left' : 'right',
      value ?? message.value,
      request ?? message.isRequest
    ]),
    [
      ['passfd:message:sent', 'left', 'message', false],
      ['passfd:message:sent', 'left', 'request', true],
      ['passfd:message:received', 'right', 'message', false],
      ['passfd:message:received', 'right', 'request', true]
    ]
  )
  await closeAll(left, right)
})

test('what was refused by a throw was not sent', async t => {
  const [channel, end] = pair<any, any>()
  const mine = file()
  const events = await record(async () => {
    t.throws(() => channel.send([mine, mine]))
    t.throws(() => channel.request([mine, mine]))
  })
  t.deepEqual(events, [])
  mine.close()
  channel.destroy()
  end.close()
})

test('a subscriber sees descriptors where they are: moved after sending, lent on arrival', async t => {
  const [left, right] = await connected()
  const seen: boolean[] = []
  const onSent = (event: any): void => void seen.push(event.value.file.closed)
  const onReceived = ({ message }: any): void => void seen.push(message.value.file.closed)
  diagnostics.subscribe('passfd:message:sent', onSent)
  diagnostics.subscribe('passfd:message:received', onReceived)
  left.send({ file: file() })
  const { value } = await nextMessage(right)
  diagnostics.unsubscribe('passfd:message:sent', onSent)
  diagnostics.unsubscribe('passfd:message:received', onReceived)
  t.deepEqual(seen, [true, false])
  value.file.close()
  await closeAll(left, right)
})
