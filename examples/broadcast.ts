// Workers that talk to each other through their supervisor: what one of them is told, all of them know.
//   node --import tsx examples/broadcast.ts
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'
import { joinSupervisor, Supervisor } from 'passfd/prefork'

if (process.argv[2] === 'worker') await work()
else await supervise()

type Settings = Record<string, string>

async function work() {
  const settings: Settings = {}
  const worker = await joinSupervisor()
  worker.channel.serve(({ value }) => {
    Object.assign(settings, value)
  })
  Object.assign(settings, await worker.channel.request({})) // what the others know already
  const server = createServer(async (request, response) => {
    if (request.method === 'POST') await worker.channel.request(await json(request)) // answered when all know it
    response.end(JSON.stringify({ slot: worker.slot, ...settings }))
  })
  await worker.listen('http', server)
  await worker.ready()
}

async function supervise() {
  const settings: Settings = {}
  const supervisor = new Supervisor({
    entry: new URL(import.meta.url),
    spawn: { args: ['worker'] },
    workers: 3,
    listeners: { http: { host: '127.0.0.1', port: 0 } },
    balance: { dispatch: 'round-robin' }
  })
  supervisor.on('state', ({ state, channel }) => {
    if (state === 'starting') channel.serve(({ value }) => broadcast(value as Settings))
  })
  const broadcast = async (news: Settings) => {
    Object.assign(settings, news)
    const ready = supervisor.workers.filter(({ state }) => state === 'ready')
    // One that ends meanwhile need not know
    if (Object.keys(news).length > 0) await Promise.allSettled(ready.map(({ channel }) => channel.request(news)))
    return settings
  }
  await supervisor.start()
  const { port } = supervisor.address('http') as { port: number }
  const url = `http://127.0.0.1:${port}/`
  await fetch(url, {
    method: 'POST',
    body: JSON.stringify({ motto: 'nothing is lost' }),
    headers: { connection: 'close' }
  })
  for (let i = 0; i < 3; i++) console.log(await (await fetch(url, { headers: { connection: 'close' } })).text())
  await supervisor.stop()
}
