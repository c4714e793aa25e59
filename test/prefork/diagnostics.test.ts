/** Diagnostics channels report the messages of the program, and not those that passfd's own parts exchange. */
import diagnostics from 'node:diagnostics_channel'
import { connect, pair } from '../../src/index.ts'
import { Supervisor } from '../../src/prefork/index.ts'
import { takeoverStatus } from '../../src/takeover/index.ts'
import { socketPath } from '../helpers/path.ts'
import { end, first } from '../helpers/seats.ts'
import { program } from '../helpers/supervising.ts'
import { test } from '../helpers/test.ts'

const NAMES = [
  'passfd:channel:open',
  'passfd:channel:close',
  'passfd:message:sent',
  'passfd:message:received',
  'tracing:passfd:request:start',
  'tracing:passfd:serve:start'
]

/** The names of what is published while `body` runs, without 'passfd:'. */
async function record(body: () => Promise<unknown>): Promise<string[]> {
  const seen: string[] = []
  const listener = (_: unknown, name: string | symbol): void => void seen.push(String(name).replace('passfd:', ''))
  for (const name of NAMES) diagnostics.subscribe(name, listener)
  try {
    await body()
  } finally {
    for (const name of NAMES) diagnostics.unsubscribe(name, listener)
  }
  return seen
}

const OF_A_WORKER = `
  import diagnostics from 'node:diagnostics_channel'
  const seen = []
  for (const name of ${JSON.stringify(NAMES)}) diagnostics.subscribe(name, (_, name) => seen.push(name.replace('passfd:', '')))
  const worker = await joinSupervisor()
  await worker.ready()
  await worker.channel.request('from the worker')
  await worker.channel.request(seen.splice(0))`

test('of a supervisor and its workers only the application’s channel is reported', async t => {
  const inWorker: unknown[] = []
  const supervisor = new Supervisor({ entry: program(OF_A_WORKER), workers: 1, listeners: { http: { port: 0 } } })
  supervisor.on('unserved', () => {})
  const told = new Promise<void>(resolve => {
    supervisor.on('state', ({ state, channel }) => {
      if (state !== 'starting') return
      channel.serve(({ value }) => {
        inWorker.push(value)
        if (inWorker.length === 2) resolve()
      })
    })
  })
  const seen = await record(async () => {
    await supervisor.start()
    await told
    await supervisor.stop()
  })
  const one = ['message:received', 'tracing:serve:start']
  t.deepEqual(seen, ['channel:open', ...one, ...one, 'channel:close'])
  const request = ['tracing:request:start', 'message:sent']
  t.deepEqual(inWorker, ['from the worker', ['channel:open', ...request]])
})

test('nothing of a takeover path is reported', async t => {
  const path = socketPath()
  const seen = await record(async () => {
    const one = await first(path)
    await takeoverStatus(path)
    const two = await first(path, { name: 'second' })
    await one.seat.ended
    await end(two.seat)
  })
  t.deepEqual(seen, [])
  // A program's own channel is
  const own = await record(async () => {
    const [channel, its] = pair()
    const other = await connect(its)
    await Promise.all([channel.close(), other.close()])
  })
  t.deepEqual(own.sort(), ['channel:close', 'channel:close', 'channel:open', 'channel:open'])
})
