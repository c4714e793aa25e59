/** A client that puts its own end of its connection to the store, and ends. */
import { randomBytes } from 'node:crypto'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { connectStore, openStore } from '../../src/store/index.ts'
import { socketPath } from '../helpers/path.ts'
import { hello, Place, request } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

test("a client's own end of its connection in the store keeps its lease, until the entry is removed", async t => {
  const path = socketPath()
  const store = await openStore(path)
  const client = await connectStore(path)
  await client.put('leased', Descriptor.memfd())
  const end = native.socket(1)
  t.is(native.connect(end, Buffer.from(path)), 0)
  const say = (bytes: Uint8Array, ...fds: number[]): void => {
    t.is(native.send(end, bytes, 0, bytes.length, Int32Array.from(fds), 0, fds.length), bytes.length)
  }
  say(hello())
  say(request(1, { do: 'hello', store: 1, client: randomBytes(16), kept: [] }))
  say(request(2, { do: 'take', id: 1, seen: 0, name: 'leased' }, 0, 253))
  // The kernel lets no descriptor through before the store has let the client in
  await until(() => store.status.clients === 2, 'its hello')
  say(request(3, { do: 'put', id: 2, seen: 1, name: 'own end', descriptors: [new Place(0)] }, 1), end)
  native.close(end) // as at the end of a process: without shutdown(2)
  await until(() => store.status.names === 2, 'its entry')
  t.is(store.status.clients, 2, 'it counts as connected')
  await t.throwsAsync(client.take('leased'), { code: 'ERR_PASSFD_STORE_LEASED' })
  t.true(await client.remove('own end'))
  await until(() => store.status.clients === 1, 'the end of its connection')
  const lease = (await client.take('leased'))!
  await lease.release()
  await client.close()
  await store.close()
})
