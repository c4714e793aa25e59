/** Connections that wait for a request without a server: each goes on in one way, once. */
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { moveOut } from '../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { IdleConnections } from '../../src/serving/idle-connections.ts'
import { patched } from '../helpers/channels.ts'
import { test, until } from '../helpers/test.ts'

/** Connections, and what has become of each: by its name, or served with the text that it has read. */
function waiting() {
  const idle = new IdleConnections()
  const became: Record<string, string> = {}
  const add = (name: string, timeout = 0): Socket => {
    const [here, there] = Descriptor.socketpair()
    const fd = moveOut(here, 'the test')
    const client = there.toSocket().on('error', () => {}) // what it has said is not read
    if (name.startsWith('spoke')) client.write('early')
    idle.add(fd, timeout, {
      serve: () => {
        became[name] = `served with ${native.pending(fd)}`
        native.close(fd)
        if (name.endsWith('throws')) throw new Error(name)
      },
      gone: () => {
        became[name] = 'gone'
      }
    })
    return client
  }
  return { idle, became, add }
}

test('a byte, at once or later, has it served; an end, or the end of its time, closes it', async t => {
  const { idle, became, add } = waiting()
  const clients = [add('spoke'), add('speaks'), add('ends'), add('speaks and ends'), add('too long', 20)]
  clients.push(add('stays', 2 ** 31)) // longer than a timer of Node's
  clients[1]!.write('now')
  clients[2]!.end()
  clients[3]!.end('last')
  await until(() => Object.keys(became).length === 5, 'all but one')
  t.deepEqual(became, {
    spoke: 'served with 5',
    speaks: 'served with 3',
    ends: 'gone',
    'speaks and ends': 'served with 4',
    'too long': 'gone'
  })
  t.is(idle.size, 1)
  idle.close()
  t.is(became.stays, 'gone')
  t.is(idle.size, 0)
  for (const client of clients) client.destroy()
})

test('hundreds at once, while one of them throws', async t => {
  const { idle, became, add } = waiting()
  const clients = Array.from({ length: 200 }, (_, index) => add(index === 7 ? 'it throws' : `${index}`))
  const listeners = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  const thrown = once(process, 'uncaughtException')
  for (const client of clients) client.write('x')
  const [error] = await thrown
  t.is((error as Error).message, 'it throws')
  await until(() => idle.size === 0, 'all')
  for (const listener of listeners) process.on('uncaughtException', listener)
  t.true(Object.values(became).every(what => what === 'served with 1'))
  for (const client of clients) client.destroy()
})

test('a drain passes on, refuses, closes after the time, and serves those with a request', async t => {
  const { idle, became, add } = waiting()
  const clients = [add('a'), add('b')]
  const passed: number[] = []
  idle.drain(60_000, fd => passed.length === 0 && passed.push(fd) > 0)
  t.deepEqual(became, { a: 'gone' })
  native.close(passed[0]!)
  idle.drain(60_000, () => false)
  idle.drain(0, () => 'later')
  t.is(idle.size, 1)
  const [spoke] = [add('spoke')]
  clients.push(spoke!)
  await turn()
  let offered = 0
  idle.drain(60_000, () => {
    offered++
    return false
  })
  t.deepEqual([offered, became.spoke], [1, 'served with 5'], 'only b is offered')
  idle.drain(0, undefined)
  t.is(became.b, 'gone')
  for (const client of clients) client.destroy()
})

test('without a descriptor for the set it is served at once', async t => {
  const { idle, became, add } = waiting()
  const clients: Socket[] = []
  await patched(
    'edgeSet',
    () => () => -24,
    async () => void clients.push(add('first'))
  )
  t.is(became.first, 'served with 0')
  clients.push(add('second'))
  await patched(
    'edgeAdd',
    () => () => -28,
    async () => void clients.push(add('third'))
  )
  t.is(became.third, 'served with 0')
  t.is(idle.size, 1)
  idle.close()
  for (const client of clients) client.destroy()
})
