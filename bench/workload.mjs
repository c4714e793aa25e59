/** What every JavaScript contender does in the same way, whatever carries its messages: counting, clocking, checking. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setImmediate as turn } from 'node:timers/promises'

/** In ms. Node compiles what is hot on the core that runs it: before that is over there is nothing to measure. */
const WARM_UP = Number(process.env.BENCH_WARM_UP ?? 1200)
const MEASURED = Number(process.env.BENCH_MEASURED ?? 300)
const FAR_CPU = process.env.BENCH_FAR_CPU

export const [workload, role = 'near', address] = process.argv.slice(2)
export const isFar = role === 'far'
export const MEBIBYTE = 1048576

/** The small message: 51 bytes in msgpack. `id` counts, so that the far end sees what is lost or out of order. */
export const small = id => ({ id, type: 'open', path: '/var/log/app', mode: 420, wait: true })

/** The same with a descriptor. */
export const withFile = (id, file) => ({ id, type: 'open', path: '/var/log/app', mode: 420, wait: true, file })

/** Node as the far end runs it: on its own core if cores are given out, with the same flags (such as --cpu-prof). */
export const farCommand = [
  ...(FAR_CPU === undefined ? [] : ['taskset', '-c', FAR_CPU]),
  process.execPath,
  ...process.execArgv
]

/** A socket path in a directory that goes with this process. */
export function socketPath() {
  const directory = mkdtempSync(join(tmpdir(), 'passfd-bench-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  process.once('SIGTERM', () => process.exit(1))
  return join(directory, 'socket')
}

/** Starts the far end, which is to print one line when it listens on `path`. */
export async function startFar(path) {
  const [command, ...args] = [...farCommand, process.argv[1], workload, 'far', path]
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  mustEndWell(child)
  await once(child.stdout, 'data')
}

/** Nothing that is awaited would end else, if the far end has failed. */
export function mustEndWell(child) {
  child.once('exit', (code, signal) => {
    if (code !== 0) throw new Error(`the far end exited with ${code ?? signal}`)
  })
}

/** What a mark may ask for: the far end's open descriptors too. */
const OPEN = 'open'

/** The far end's book: it sees each value and answers the near end's `{ mark }` with what it has seen. */
export class Tally {
  #count = 0

  /** Undefined for an ordinary value, else the answer to a mark. */
  take(value) {
    if (value.mark !== undefined) {
      const count = this.#count
      this.#count = 0
      return value.mark === OPEN ? { count, open: openDescriptors() } : { count }
    }
    if (value.id !== this.#count++) throw new Error(`${value.id} came as number ${this.#count - 1}`)
    return undefined
  }
}

/** Requests by hand, for what only sends: an id each. `receive` is to be given every answer; more arguments go to `send`. */
export function answered(send) {
  const pending = new Map()
  const ask = (value, ...more) =>
    new Promise(resolve => {
      pending.set(value.id, resolve)
      send(value, ...more)
    })
  return {
    receive(answer) {
      const resolve = pending.get(answer.id)
      pending.delete(answer.id)
      resolve(answer)
    },
    mark: (what = true) => ask({ mark: what }),
    request: (id, ...more) => ask(small(id), ...more)
  }
}

/** Nothing in a value says so, as passfd's doesn't either: all carry the same. */
const REQUESTS = workload.startsWith('request')

/** What the far end of such a thing does with each value: undefined if there is nothing to answer. */
export function answerTo(value, tally) {
  const report = tally.take(value)
  if (value.block !== undefined) checkBlock(value)
  return report ?? (REQUESTS ? { id: value.id } : undefined)
}

/**
 * Warms up, says so, and then measures once for each line on stdin: `phase(time)` goes on for `time` ms and gives the value. `mark(what)`
 * resolves to the far end's report once it has had everything before. Fails if either end has more descriptors open at the end.
 */
export async function measure(phase, mark) {
  const report = await mark(OPEN)
  process.stdin // libuv keeps a descriptor in reserve (/dev/null) from the first stream on: open it before anything is counted
  const before = openDescriptors()
  await phase(WARM_UP)
  console.log('ready')
  for await (const _ of createInterface({ input: process.stdin })) console.log(String(await phase(MEASURED)))
  const deadline = performance.now() + 2000
  while (openDescriptors() > before || (await mark(OPEN)).open > report.open) {
    if (performance.now() > deadline) throw new Error('descriptors are left open')
    await turn()
  }
}

/** One way, as much as goes: `burst(first, count)` sends that many and waits for room. Gives a second's. */
export const oneWay =
  ({ burst, mark, size = 256 }) =>
  async time => {
    const start = performance.now()
    let count = 0
    do {
      await burst(count, size)
      count += size
      await turn()
    } while (performance.now() - start < time)
    return rate(count, await mark(), start)
  }

/** What a layer does with a message, there and here, in one process: `burst(first, count)` resolves when so many have arrived. Gives ns a message. */
export const eachWay =
  ({ burst, size = 256 }) =>
  async time => {
    const start = performance.now()
    let count = 0
    do {
      await burst(count, size)
      count += size
    } while (performance.now() - start < time)
    return ((performance.now() - start) / count) * 1e6
  }

/** `request(id)` and its answer, one at a time. Gives the median in µs. */
export const roundTrips =
  ({ request, mark }) =>
  async time => {
    const times = []
    const start = performance.now()
    let sent = start
    do {
      check(await request(times.length), times.length)
      const answered = performance.now()
      times.push(answered - sent)
      sent = answered
    } while (sent - start < time)
    rate(times.length, await mark(), start)
    return times.sort((a, b) => a - b)[times.length >> 1] * 1000
  }

/** `request(id)` and its answer, always `inFlight` of them under way. Gives a second's. */
export const pipelined =
  ({ request, mark, inFlight }) =>
  async time => {
    const start = performance.now()
    let count = 0
    const oneAfterTheOther = async () => {
      while (performance.now() - start < time) {
        const id = count++
        check(await request(id), id)
      }
    }
    await Promise.all(Array.from({ length: inFlight }, oneAfterTheOther))
    return rate(count, await mark(), start)
  }

/** 1 MiB blocks, one way: two, sent again once they have left, each stamped so that the far end can check it. Gives GB/s. */
export function bulk({ send, mark }) {
  const ring = Array.from({ length: 2 }, () => ({ block: Buffer.alloc(MEBIBYTE, 0x5a), left: undefined }))
  const burst = async (first, count) => {
    for (let id = first; id < first + count; id++) {
      const place = ring[id % ring.length]
      await place.left
      place.block.writeUInt32LE(id, 0)
      place.block.writeUInt32LE(id, MEBIBYTE - 4)
      place.left = send({ id, block: place.block })
    }
  }
  const phase = oneWay({ burst, mark, size: 4 })
  return async time => ((await phase(time)) * MEBIBYTE) / 1e9
}

export function checkBlock({ id, block }) {
  if (block.length !== MEBIBYTE || block.readUInt32LE(0) !== id || block.readUInt32LE(MEBIBYTE - 4) !== id)
    throw new Error(`block ${id} is damaged`)
}

const openDescriptors = () => readdirSync('/proc/self/fd').length

function rate(sent, { count }, start) {
  const seconds = (performance.now() - start) / 1000
  if (count !== sent) throw new Error(`${count} of ${sent} arrived`)
  return sent / seconds
}

function check(answer, id) {
  if (answer.id !== id) throw new Error(`${answer.id} is the answer to ${id}`)
}

// --- What is asked of a far end that has no channel to be asked by

/** Far: prints `listening`, and answers each line on stdin with what `report` gives, the resident set and the open descriptors. */
export async function control(report) {
  console.log('listening')
  for await (const _ of createInterface({ input: process.stdin }))
    console.log(JSON.stringify({ ...(await report()), rss: residentSet(), open: openDescriptors() }))
  process.exit()
}

/** Starts a far end that calls `control`. */
export async function startControlled(path, flags = []) {
  const [command, ...args] = [...farCommand, ...flags, process.argv[1], workload, 'far', path]
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  process.once('exit', () => child.kill())
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const line = async () => {
    const { done, value } = await lines.next()
    if (done) throw new Error('the far end has ended')
    return value
  }
  await line()
  const ask = async () => {
    child.stdin.write('\n')
    return JSON.parse(await line())
  }
  return {
    ask,
    /** Resolves when it has no more than `open` descriptors open. */
    async openAgain(open) {
      const deadline = performance.now() + 5000
      while ((await ask()).open > open)
        if (performance.now() > deadline) throw new Error('descriptors are left open at the far end')
    },
    async end() {
      child.stdin.end()
      const [code] = await exited
      if (code !== 0) throw new Error(`the far end exited with ${code}`)
    }
  }
}

/** Measures once for each line on stdin; fails if descriptors are left open at the end. */
export async function rounds(round) {
  let before
  console.log('ready')
  for await (const _ of createInterface({ input: process.stdin })) {
    before ??= openDescriptors()
    console.log(String(await round()))
  }
  const deadline = performance.now() + 2000
  while (openDescriptors() > before) {
    if (performance.now() > deadline) throw new Error('descriptors are left open')
    await turn()
  }
}

/** Collects garbage as far as it goes: what finalizers let go of, too. Needs --expose-gc. */
export async function settle() {
  for (let i = 0; i < 2; i++) {
    globalThis.gc()
    await turn()
  }
}

/** In bytes: proc(5). */
const PAGE = 4096
export const residentSet = () => Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1]) * PAGE
