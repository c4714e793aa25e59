import { joinSupervisor } from '../../../build/dist/prefork/index.js'
import { answerDatagrams, begin, servers } from '../place.mjs'

await begin()
const worker = await joinSupervisor()
for (const [name, server] of servers(worker.signal)) await worker.listen(name, server)
for (const name of ['udp', 'udp6']) {
  const end = answerDatagrams(worker.descriptor(name).toDatagram())
  worker.signal.addEventListener('abort', end)
}
await worker.ready()
