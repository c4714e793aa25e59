/** Node's `cluster`: `round-robin:MODE` (the primary accepts and passes each on), `none:MODE` (the workers accept from one listener). */
import cluster from 'node:cluster'
import { once } from 'node:events'
import { listenAt, near, newServer, role, untilEnd, variant, WORKERS } from '../prefork.mjs'

async function parent() {
  cluster.schedulingPolicy = variant === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR
  cluster.setupPrimary({ args: [process.argv[2], 'worker'] })
  const workers = Array.from({ length: WORKERS }, () => cluster.fork())
  await Promise.all(workers.map(worker => once(worker, 'listening')))
  await untilEnd(
    () => {
      for (const worker of workers) worker.kill() // which sends SIGTERM
      return Promise.all(workers.map(worker => once(worker, 'exit')))
    },
    // A rolling restart: the next one listens, then the last one stops to, answers what it has, and ends
    async () => {
      for (const [index, before] of workers.entries()) {
        const next = cluster.fork()
        await once(next, 'listening')
        workers[index] = next
        const exited = once(before, 'exit')
        before.disconnect()
        await exited
      }
    }
  )
}

await { near: () => near({ dispatches: variant !== 'none' }), parent, worker: () => newServer().listen(listenAt) }[
  role
]()
