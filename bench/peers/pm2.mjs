/**
 * pm2's cluster mode (its own use of Node's `cluster`, round robin), in this process instead of a daemon, as `pm2-runtime` does it; its
 * files in a folder that goes with the bench. Without its monitoring of the workers (`pmx`), which would only cost it.
 */
import { join } from 'node:path'
import { promisify } from 'node:util'
import { folder, listenAt, near, newServer, role, untilEnd, WORKERS } from '../prefork.mjs'

async function parent() {
  const home = join(folder, 'pm2')
  process.env.PM2_HOME = home
  const { default: pm2 } = await import('pm2')
  const own = new pm2.custom({ daemon_mode: false, pm2_home: home })
  const call = name => promisify(own[name].bind(own))
  await call('connect')()
  await call('start')({
    script: process.argv[1],
    args: [process.argv[2]],
    name: 'bench',
    exec_mode: 'cluster',
    instances: WORKERS,
    wait_ready: true,
    autorestart: false,
    pmx: false,
    vizion: false,
    env: { ...process.env, BENCH_ROLE: 'worker' }
  })
  await untilEnd(
    async () => {
      await call('delete')('bench')
      process.exit()
    },
    () => call('reload')('bench')
  )
}

await {
  near: () => near({ dispatches: true }),
  parent,
  worker: () => newServer().listen(listenAt, () => process.send('ready'))
}[role]()
