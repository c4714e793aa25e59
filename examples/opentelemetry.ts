// One trace through two processes: a shop makes requests to its stock, and both report their spans. One request is answered, one fails, one is cancelled.
//   node --import tsx examples/opentelemetry.ts
// The instrumentation is opentelemetry-passfd.ts. Neither the requests nor the handler know of it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as nap } from 'node:timers/promises'
import { trace } from '@opentelemetry/api'
import { connect, Descriptor, pair } from 'passfd'
import { startTracing } from './opentelemetry-lines.ts'
import { fail } from './opentelemetry-passfd.ts'

interface Order {
  operation: 'reserve'
  item: string
}

if (process.argv[2] === 'stock') await stock()
else await shop()

async function shop() {
  const provider = startTracing('shop', '1', ({ operation }) => operation)
  const [channel, end] = pair<unknown, Order>()
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, 'stock'], {
    stdio: ['ignore', 'inherit', 'inherit', end.borrow()]
  })
  end.close()
  const buy = (item: string, options: { signal?: AbortSignal } = {}) =>
    trace.getTracer('shop').startActiveSpan(`buy ${item}`, async span => {
      await channel.request({ operation: 'reserve', item }, options).catch(error => fail(span, error))
      span.end()
    })
  await buy('lamp')
  await buy('unicorn')
  const impatient = new AbortController()
  const bought = buy('piano', { signal: impatient.signal })
  // The stock says when it has begun
  channel.once('message', () => impatient.abort())
  await bought
  await channel.close()
  await once(child, 'close')
  await provider.shutdown()
}

async function stock() {
  const provider = startTracing('stock', '1', ({ operation }) => operation)
  const channel = await connect<Order>(Descriptor.adopt(3))
  channel.serve(async ({ value: { item }, signal, channel }) => {
    if (item === 'piano') {
      channel.send('a piano takes long')
      await once(signal, 'abort')
      return
    }
    // A span within the handler, after something asynchronous, is a child of the handler's
    await nap(1)
    await trace.getTracer('stock').startActiveSpan('look up', async span => span.end())
    if (item === 'unicorn') throw Object.assign(new Error('there are no unicorns'), { code: 'E_NO_SUCH_ITEM' })
    return { reserved: item }
  })
  await channel.closed
  await provider.shutdown()
}
