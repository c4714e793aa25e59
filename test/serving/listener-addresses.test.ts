/** The listener of a connection, by the connection's own address. */
import { once } from 'node:events'
import { connect, type NetConnectOpts } from 'node:net'
import type { ExecutionContext } from 'ava'
import { type BindSpec, Descriptor } from '../../src/index.ts'
import { acceptWaiting } from '../../src/os/acceptor.ts'
import { native } from '../../src/os/native.ts'
import { addressOf } from '../../src/serving/bound-socket.ts'
import { ListenerAddresses } from '../../src/serving/listener-addresses.ts'
import { socketPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

function portOf(listener: Descriptor): number {
  return (addressOf(listener.borrow()) as { port: number }).port
}

/** Returns the name for a connection that the listener has accepted, when all listeners are closed. */
async function nameOf(
  t: ExecutionContext,
  bind: Record<string, (port: number) => BindSpec>,
  from: string,
  target: (port: number) => NetConnectOpts
): Promise<string | undefined> {
  const listeners = new Map<string, { listener: Descriptor }>()
  let port = 0
  for (const [name, spec] of Object.entries(bind)) {
    const listener = await Descriptor.bind(spec(port))
    listeners.set(name, { listener })
    if (port === 0 && listener.kind !== 'unix-stream-listener') port = portOf(listener)
  }
  const client = connect(target(port))
  await once(client, 'connect')
  const accepted: number[] = []
  acceptWaiting(listeners.get(from)!.listener.borrow(), fd => void accepted.push(fd))
  t.is(accepted.length, 1)
  const addresses = new ListenerAddresses()
  addresses.note(listeners)
  for (const { listener } of listeners.values()) listener.close()
  const name = addresses.listenerOf(accepted[0]!, [...listeners.keys()])
  native.close(accepted[0]!)
  client.destroy()
  return name
}

const local = (port: number): NetConnectOpts => ({ port, host: '127.0.0.1' })

test('by the port, by the address of one port, and by the path', async t => {
  const here = { host: '127.0.0.1' }
  const other = { host: '127.0.0.2' }
  const ports = { a: () => ({ ...here, port: 0 }), b: () => ({ ...here, port: 0 }) }
  t.is(await nameOf(t, ports, 'a', local), 'a')
  const hosts = { a: () => ({ ...here, port: 0 }), b: (port: number) => ({ ...other, port }) }
  t.is(await nameOf(t, hosts, 'a', local), 'a')
  t.is(await nameOf(t, hosts, 'b', port => ({ port, ...other })), 'b')
  const path = socketPath()
  const kinds = { tcp: () => ({ ...here, port: 0 }), path: () => ({ path }), further: () => ({ path: socketPath() }) }
  t.is(await nameOf(t, kinds, 'path', () => ({ path })), 'path')
  t.is(
    await nameOf(t, { any: () => ({ host: '0.0.0.0', port: 0 }), path: () => ({ path: socketPath() }) }, 'any', local),
    'any'
  )
})

test('of one name it is that; of a listener that is not among the names, none', async t => {
  const listener = await Descriptor.bind({ host: '127.0.0.1', port: 0 })
  const client = connect(local(portOf(listener)))
  await once(client, 'connect')
  const accepted: number[] = []
  acceptWaiting(listener.borrow(), fd => void accepted.push(fd))
  const addresses = new ListenerAddresses()
  t.is(addresses.listenerOf(accepted[0]!, ['only']), 'only')
  t.is(addresses.listenerOf(accepted[0]!, []), undefined)
  t.is(addresses.listenerOf(accepted[0]!, ['a', 'b']), undefined)
  native.close(accepted[0]!)
  listener.close()
  client.destroy()
})
