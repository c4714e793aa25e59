/** A worker thread of the same process and its MessagePort. */
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { measure, roundTrips, small, Tally, workload } from '../workload.mjs'

function far() {
  const tally = new Tally()
  parentPort.on('message', value => parentPort.postMessage(tally.take(value) ?? { id: value.id }))
}

async function near() {
  const worker = new Worker(process.argv[1])
  let answered
  worker.on('message', answer => answered(answer))
  const ask = value =>
    new Promise(resolve => {
      answered = resolve
      worker.postMessage(value)
    })
  const mark = (what = true) => ask({ mark: what })
  await mark() // both threads have opened what they need
  await measure(workloads[workload]({ mark, request: id => ask(small(id)) }), mark)
  await worker.terminate()
}

const workloads = { request: roundTrips }

await (isMainThread ? near() : far())
