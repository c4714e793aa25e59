/** A worker thread of the same process and its MessagePort. It clones what it carries, as everybody else here does. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readlinkSync } from 'node:fs'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import {
  answered,
  answerTo,
  bulk,
  measure,
  oneWay,
  pipelined,
  roundTrips,
  small,
  Tally,
  workload
} from '../workload.mjs'

const FAR_CPU = process.env.BENCH_FAR_CPU
/** Nothing holds a sender back, so each burst of so many is answered, and two are under way at most. */
const BURST = 256

function far() {
  parentPort.postMessage(readlinkSync('/proc/thread-self').split('/').at(-1))
  const tally = new Tally()
  parentPort.on('message', value => {
    // A Buffer arrives as a Uint8Array
    if (value.block !== undefined) value.block = Buffer.from(value.block.buffer)
    const answer = answerTo(value, tally)
    if (answer !== undefined) parentPort.postMessage(answer)
    if (value.room) parentPort.postMessage({ id: 'room' })
  })
}

async function near() {
  const worker = new Worker(process.argv[1], { argv: process.argv.slice(2) })
  const [thread] = await once(worker, 'message')
  // It has inherited our core
  if (FAR_CPU !== undefined) execFileSync('taskset', ['-pc', FAR_CPU, thread], { stdio: 'ignore' })
  const { mark, request, receive } = answered(value => worker.postMessage(value))
  const room = new Room(worker)
  worker.on('message', answer => (answer.id === 'room' ? room.given() : receive(answer)))
  await mark() // both threads have opened what they need
  await measure(workloads[workload](worker, mark, request, room), mark)
  await worker.terminate()
}

/** Back pressure by hand. */
class Room {
  #worker
  #waiting = []

  constructor(worker) {
    this.#worker = worker
  }

  /** The last value of a burst has arrived. */
  given() {
    this.#waiting.shift()()
  }

  /** Sends the last value of a burst. What it gives resolves when that of the burst before has arrived. */
  end(value) {
    const before = this.#last
    this.#last = new Promise(resolve => this.#waiting.push(resolve))
    this.#worker.postMessage({ ...value, room: true })
    return before
  }

  #last = Promise.resolve()
}

const workloads = {
  messages: (worker, mark, _, room) =>
    oneWay({
      mark,
      size: BURST,
      burst: (first, count) => {
        for (let id = first; id < first + count - 1; id++) worker.postMessage(small(id))
        return room.end(small(first + count - 1))
      }
    }),
  request: (_, mark, request) => roundTrips({ mark, request }),
  'requests-pipelined': (_, mark, request) => pipelined({ mark, request, inFlight: 100 }),
  bulk: (_, mark, __, room) => bulk({ mark, send: value => room.end(value) })
}

await (isMainThread ? near() : far())
