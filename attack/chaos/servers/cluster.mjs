// Node's cluster, with what its documentation recommends: the next worker listens, then the last one is disconnected, answers what it has, and ends
import cluster from 'node:cluster'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { serve, Workers } from '../obey.mjs'
import { answerDatagrams, begin, place, servers } from '../place.mjs'

/** ms, as a program's own would be. */
const READY = 15_000

if (cluster.isPrimary) await lead()
else await work()

async function lead() {
  const { balance, workers: count } = place
  cluster.schedulingPolicy = balance === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR
  cluster.setupPrimary({ args: [process.argv[2]] })
  const workers = new Workers()
  let slots = []
  let ending = false
  let wanted = count

  /** Resolves when it serves; rejects if it does not. */
  const start = async () => {
    const worker = cluster.fork()
    const { pid } = worker.process
    const timer = setTimeout(() => worker.process.kill('SIGKILL'), READY)
    const ready = new Promise((resolve, reject) => {
      worker.on('message', resolve)
      worker.once('exit', () => reject(new Error('it does not get ready')))
    })
    worker.once('disconnect', () => workers.remove(pid))
    worker.once('exit', () => {
      workers.remove(pid)
      const index = slots.indexOf(worker)
      if (index < 0) return
      slots.splice(index, 1)
      refill()
    })
    try {
      await ready
    } finally {
      clearTimeout(timer)
    }
    slots.push(worker)
    workers.add(pid)
    return worker
  }
  const refill = () => {
    if (ending || slots.length >= wanted) return
    start().catch(() => setTimeout(refill, 100))
  }
  const end = async worker => {
    slots = slots.filter(one => one !== worker)
    const exited = once(worker, 'exit')
    worker.disconnect()
    await exited
  }

  await Promise.all(Array.from({ length: count }, start))
  serve(
    workers,
    {
      reload: async () => {
        for (const before of [...slots]) {
          await start()
          await end(before)
        }
      },
      scale: async number => {
        wanted = number
        while (slots.length < number) await start()
        await Promise.all(slots.slice(number).map(end))
      },
      stop: async () => {
        ending = true
        await Promise.all(slots.map(end))
        setImmediate(() => process.exit())
      }
    },
    () => {
      for (const { process: child } of Object.values(cluster.workers)) child.kill('SIGKILL')
      process.exit()
    }
  )
}

async function work() {
  await begin()
  const ending = new AbortController()
  cluster.worker.once('disconnect', () => ending.abort())
  for (const [name, server] of servers(ending.signal))
    await once(server.listen(name === 'unix' ? place.unix : place.listeners[name]), 'listening')
  for (const name of ['udp', 'udp6']) {
    const socket = createSocket(name === 'udp' ? 'udp4' : 'udp6')
    const { port, address } = place[name]
    await once(socket.bind(port, address), 'listening')
    answerDatagrams(socket)
  }
  process.send('ready')
}
