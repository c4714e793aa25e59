/** A supervisor and a worker, which replaces itself once; requests before and after. The orders of `far` are those of the workers. */
import http from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Supervisor } from '../../../build/dist/prefork/index.js'

const WORKER = fileURLToPath(new URL('../worker.mjs', import.meta.url))

export function far() {
  return {}
}

export function near(folder) {
  let supervisor
  let number = 0
  const socketPath = join(folder, 'web')
  return {
    async run(round) {
      supervisor = new Supervisor({
        entry: WORKER,
        ...(process.env.FAULTS === undefined
          ? {}
          : { spawn: { env: { ...process.env, FAULTS: join(folder, 'orders-far') } } }),
        workers: 1,
        listeners: { web: { path: socketPath } },
        balance: number++ % 2 === 0 ? 'shared' : { dispatch: 'round-robin' },
        stopTimeout: round.limit(1000)
      })
      supervisor.on('report', () => {})
      round.later(() => supervisor.kill())
      const started = await round.attempt('start', () => supervisor.start().then(() => true))
      if (!started) return
      await round.attempt('reload', () => supervisor.reload())
      await round.attempt('request', () => request(socketPath, round.limit(3000)))
    },
    async check(round) {
      await round.settled('stop', supervisor.stop())
    }
  }
}

function request(socketPath, timeout) {
  return new Promise((resolve, reject) => {
    http
      .get({ socketPath, agent: false, timeout }, response =>
        response
          .resume()
          .on('end', () =>
            response.statusCode === 200 ? resolve(200) : reject(new Error(`status ${response.statusCode}`))
          )
          .on('error', reject)
      )
      .on('error', reject)
      .on('timeout', function () {
        this.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' }))
      })
  })
}
