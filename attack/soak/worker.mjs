// A worker of passfd/prefork that answers as those of the attack `chaos`, and `?use=…` by a part of passfd
import { joinSupervisor } from '../../build/dist/prefork/index.js'
import { answerDatagrams, begin, place, reportDelay, servers } from '../chaos/place.mjs'
import { open } from './uses.mjs'

await begin()
reportDelay()
const worker = await joinSupervisor()
const { uses, close } = await open(place.folder)
worker.onStop(close)
for (const [name, server] of servers(worker.signal)) {
  if (name === 'http') use(server)
  await worker.listen(name, server)
}
for (const name of ['udp', 'udp6']) {
  const end = answerDatagrams(worker.descriptor(name).toDatagram())
  worker.signal.addEventListener('abort', end)
}
await worker.ready()

function use(server) {
  const [answer] = server.listeners('request')
  server.off('request', answer)
  server.on('request', (request, response) => {
    const [path, what] = request.url.split('?use=')
    if (what === undefined) return answer(request, response)
    uses[what](path.slice(1)).then(
      id => response.end(id),
      error => {
        response.statusCode = 500
        response.statusMessage = `${what}: ${error.code} ${error.message}`.replace(/[^ -~]/g, ' ').slice(0, 200)
        response.end()
      }
    )
  })
}
