/** A server looked after in a worker: where its connections come from, and that it ends without losing a request. */
import { Descriptor } from '../../src/index.ts'
import { addressOf } from '../helpers/facts.ts'
import { type Running, startFixture } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

test('under load from keep-alive clients workers are drained and replaced, and no request fails', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const { port } = await addressOf(listener)
  const startWorker = async (): Promise<Running> => {
    const worker = startFixture('prefork-served', [], { stdio: ['pipe', 'pipe', 'pipe', listener.borrow()] })
    await worker.line()
    return worker
  }
  let workers = [await startWorker(), await startWorker()]
  const clients = startFixture('prefork-load', [String(port), '16'])
  let served = 0
  for (let round = 0; round < 6; round++) {
    const [old, other] = workers as [Running, Running]
    const replacement = await startWorker()
    old.child.stdin?.write('stop\n')
    const requests = Number(await old.line())
    t.true(requests > 0)
    served += requests
    t.is((await old.exit).code, 0)
    workers = [other, replacement]
  }
  clients.child.stdin?.write('end\n')
  const { answered, connections, failures } = JSON.parse(await clients.line())
  await clients.exit
  for (const worker of workers) {
    worker.child.stdin?.write('stop\n')
    served += Number(await worker.line())
    await worker.exit
  }
  t.deepEqual(failures, [])
  t.is(served, answered)
  t.true(connections > 16 && answered > 100, `${connections} ${answered}`)
  listener.close()
})
