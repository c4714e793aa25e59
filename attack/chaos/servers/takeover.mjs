// A single process that is replaced by the next one: passfd/takeover
import { takeOver } from '../../../build/dist/takeover/index.js'
import { tell } from '../../../test/fixtures/obey.mjs'
import { serve, Workers } from '../obey.mjs'
import { answerDatagrams, begin, place, servers } from '../place.mjs'

const { folder, listeners, unix, udp, udp6 } = place
await begin()
const seat = await takeOver({
  path: `${folder}/takeover`,
  listeners: { ...listeners, unix, udp: { type: 'udp4', ...udp }, udp6: { type: 'udp6', ...udp6 } },
  idleGrace: 10_000,
  attemptTimeout: 15_000
})
for (const [name, server] of servers(seat.signal)) await seat.listen(name, server)
const descriptors = ['udp', 'udp6'].map(name => seat.descriptor(name))
await seat.ready()
for (const descriptor of descriptors) {
  const end = answerDatagrams(descriptor.toDatagram())
  seat.signal.addEventListener('abort', end)
}
const workers = new Workers()
workers.add(process.pid)
seat.on('superseded', ({ pid }) => tell({ event: 'superseded', pid }))
serve(workers, { stop: () => seat.stop() }, () => process.kill(process.pid, 'SIGKILL'))
