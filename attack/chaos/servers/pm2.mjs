// pm2's cluster mode, in this process instead of a daemon, as pm2-runtime does it. It is one of the bench's packages

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { serve, Workers } from '../obey.mjs'
import { answerDatagrams, begin, place, servers } from '../place.mjs'

// pm2 hands its workers no arguments of ours in time
if (process.env.CHAOS_WORKER) await work()
else await lead()

async function lead() {
  const { folder, workers: count } = place
  process.env.PM2_HOME = `${folder}/pm2`
  const pm2 = createRequire(new URL('../../../bench/package.json', import.meta.url))('pm2')
  const own = new pm2.custom({ daemon_mode: false, pm2_home: `${folder}/pm2` })
  const call = name => promisify(own[name].bind(own))
  await call('connect')()
  const workers = new Workers()
  const bus = await call('launchBus')()
  const pids = async () =>
    (await call('list')()).filter(({ pm2_env }) => pm2_env.status === 'online').map(({ pid }) => pid)
  const look = async () => {
    const now = await pids()
    for (const pid of workers.pids) if (!now.includes(pid)) workers.remove(pid)
    for (const pid of now) if (!workers.pids.includes(pid)) workers.add(pid)
  }
  bus.on('process:event', () => void look())
  await call('start')({
    script: process.argv[1],
    args: [process.argv[2]],
    name: 'chaos',
    exec_mode: 'cluster',
    instances: count,
    wait_ready: true,
    listen_timeout: 15_000,
    kill_timeout: 10_000,
    min_uptime: 100,
    max_restarts: 1_000_000,
    pmx: false,
    vizion: false,
    env: { ...process.env, CHAOS_WORKER: '1' }
  })
  await look()
  serve(
    workers,
    {
      workers: async () => {
        await look()
        return workers.pids
      },
      ready: async (number, without) => {
        for (;;) {
          await look()
          if (workers.pids.length >= number && !workers.pids.includes(without)) return
          await new Promise(resolve => setTimeout(resolve, 20))
        }
      },
      reload: () => call('reload')('chaos').then(() => {}),
      scale: number =>
        call('scale')('chaos', number).then(
          () => {},
          () => {}
        ),
      stop: async () => {
        await call('delete')('chaos')
        setImmediate(() => process.exit())
      }
    },
    async () => {
      for (const pid of workers.pids) process.kill(pid, 'SIGKILL')
      process.exit()
    }
  )
}

async function work() {
  await begin()
  const ending = new AbortController()
  const all = servers(ending.signal)
  for (const [name, server] of all)
    await once(server.listen(name === 'unix' ? place.unix : place.listeners[name]), 'listening')
  const ends = []
  for (const name of ['udp', 'udp6']) {
    const socket = createSocket(name === 'udp' ? 'udp4' : 'udp6')
    await once(socket.bind(place[name].port, place[name].address), 'listening')
    ends.push(answerDatagrams(socket))
  }
  // As pm2's documentation recommends
  process.once('SIGINT', async () => {
    ending.abort()
    for (const end of ends) end()
    await Promise.all(all.map(([, server]) => new Promise(resolve => server.close(resolve))))
    process.exit()
  })
  process.send('ready')
}
