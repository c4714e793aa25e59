/**
 * What all that serve connections have in common: the server, how it is started and stopped, the load and the book-keeping. A contender
 * of this kind is one program in three roles: `near` (drives load.c), `parent`, `worker`. Its workload is `VARIANT:MODE[:WORKERS]`, MODE one
 * of load.c's, or `reload`: paced requests while the parent replaces all workers; or `quiet`: the same requests, and it doesn't; or `idle`: no
 * requests at all.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createNetServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

const [workload, named = 'near', loadProgram] = process.argv.slice(2)
export const [variant, mode, workers = '2'] = workload.split(':')
export const role = process.env.BENCH_ROLE ?? named
/** Where the server listens, and the file in which each worker leaves how many it has served. */
const { address, counts } = role === 'near' ? newPlace() : JSON.parse(process.env.BENCH_PLACE)
export const listenAt = address
export const folder = join(counts, '..')
export const WORKERS = Number(workers)

/** In ms. */
export const WARM_UP = Number(process.env.BENCH_WARM_UP ?? 1200)
export const MEASURED = Number(process.env.BENCH_MEASURED ?? 300)
/** Connections of the load. */
const CONNECTIONS = 64
/** Without a reload, and for CPU time, the requests go on for so much longer than those of other rows. */
const LONGER = 3
/** Where the load is to run, if a row gives it a core of its own. */
const FAR_CPU = process.env.BENCH_FAR_CPU
const PATIENCE = Number(process.env.BENCH_PATIENCE ?? 5000)
const SERVES = 'serves'
const RELOADED = 'reloaded'
/** Whether requests are answered when a worker is told to stop. */
const GRACEFUL = mode === 'reload' || mode === 'quiet'

/** A loopback address of one's own, by the process id, so that all contenders of a row can wait at once; none is written to. */
function newPlace() {
  const path = mkdtempSync(join(tmpdir(), 'passfd-bench-'))
  process.on('exit', () => rmSync(path, { recursive: true, force: true }))
  const { pid } = process
  const host = `127.${64 + ((pid >> 16) & 63)}.${(pid >> 8) & 255}.${pid & 255}`
  return {
    counts: join(path, 'counts'),
    address: mode === 'bare' ? { path: join(path, 'server') } : { host, port: 8080 }
  }
}

// --- The worker

const SIGNALS = ['SIGINT', 'SIGTERM']

/** Of everybody the same: answers with its process id, or, in the mode bare, closes the connection. */
export function newServer() {
  const count = counter()
  if (mode === 'bare')
    return createNetServer(socket => {
      count()
      socket.destroy()
    })
  const body = `${process.pid}\n`
  const server = createHttpServer((_, response) => {
    count()
    response.end(body)
  })
  if (GRACEFUL) for (const signal of SIGNALS) process.once(signal, () => server.close(() => process.exit()))
  return server
}

/** In the mode bare, of those whose workers get the connection as a Descriptor: closes it. */
export function newReceiver() {
  const count = counter()
  return connection => {
    count()
    connection.close()
  }
}

/** Counts, and tells the parent at the end. */
function counter() {
  let served = 0
  process.on('exit', () => {
    if (existsSync(folder)) appendFileSync(counts, `${process.pid} ${served}\n`) // else nobody asks any more
  })
  if (!GRACEFUL) for (const signal of SIGNALS) process.once(signal, () => process.exit())
  return () => {
    served++
  }
}

// --- The parent

/** Says that it serves, calls `reload` for each line on its stdin, and `stop` when that ends. */
export async function untilEnd(stop, reload) {
  process.stdout.write(`${SERVES}\n`) // pm2 takes console.log for its own
  for await (const _ of createInterface({ input: process.stdin })) {
    await reload()
    process.stdout.write(`${RELOADED}\n`)
  }
  await stop()
}

// --- The near end

/** Starts this program as the parent, which serves when this resolves. */
export async function startParent() {
  const parent = spawn(process.execPath, [...process.execArgv, process.argv[1], workload, 'parent'], {
    env: { ...process.env, BENCH_PLACE: JSON.stringify({ address, counts }) },
    stdio: ['pipe', 'pipe', 'inherit']
  })
  const exited = once(parent, 'exit')
  process.once('exit', () => parent.kill('SIGKILL')) // its workers end by themselves then
  process.once('SIGTERM', () => process.exit(1))
  const said = hearing(parent)
  await said(SERVES)
  return {
    pid: parent.pid,
    /** Resolves when it has replaced its workers. */
    reload() {
      parent.stdin.write('\n')
      return said(RELOADED)
    },
    async end() {
      parent.stdin.end()
      const [code, signal] = await exited
      if (code !== 0) throw new Error(`the parent exited with ${code ?? signal}`)
    }
  }
}

/**
 * Measures once for each line on stdin. `strict`: fails if a request does, otherwise tells how many were lost. `dispatches`: the parent has work with
 * each connection. Else its CPU time is not measured: the load would wait until that has grown. `price`: the parent serves, and its CPU time for a
 * request, in µs, is the value.
 */
export async function near({ strict = false, dispatches = false, price = false } = {}) {
  const parent = await startParent()
  const clocked = price || (dispatches && mode !== 'keep-alive')
  const load = mode === 'idle' ? undefined : startLoad(clocked ? parent.pid : 0)
  const all = new Map()
  let total = 0
  /** What the load has counted, once it is known to be whole. */
  const checked = ({ completed, besides, failed, workers }) => {
    if (completed === 0) throw new Error(`nothing was answered: ${JSON.stringify(failed)}`)
    total += completed + besides
    for (const [pid, count] of Object.entries(workers)) all.set(pid, (all.get(pid) ?? 0) + count)
    const lost = Object.values(failed).reduce((sum, count) => sum + count)
    if (strict && lost > 0) throw new Error(`requests failed: ${JSON.stringify(failed)}`)
    return lost
  }
  const phase = GRACEFUL ? paced : mode === 'idle' ? idle(parent.pid) : closedLoop
  async function closedLoop(time) {
    const told = await load.run(price ? LONGER * time : time)
    const { completed, seconds, cpu, workers } = told
    const lost = checked(told)
    if (price) return `${(cpu / completed) * 1e6} ${lost} rate=${completed / seconds}`
    const rest = { cpu: (cpu / completed) * 1e6, ...(mode === 'bare' ? {} : { busiest: busiest(workers) }) }
    return [completed / seconds, lost, ...Object.entries(rest).map(([name, value]) => `${name}=${value}`)].join(' ')
  }
  async function paced(time) {
    const done = load.run(time)
    const start = performance.now()
    if (mode === 'reload') await parent.reload()
    else await sleep(LONGER * time)
    const took = performance.now() - start
    load.go()
    const told = await done
    const lost = checked(told)
    if (mode === 'reload' && Object.keys(told.workers).length <= WORKERS)
      throw new Error('no other worker has answered')
    return `${told.p99} ${lost} slowest=${told.slowest} took=${took}`
  }
  await phase(WARM_UP)
  // If it replaces its workers these don't stay, and pm2 itself keeps descriptors of those that have ended
  const processes = mode === 'reload' ? (strict ? [parent.pid] : []) : [parent.pid, ...childrenOf(parent.pid)]
  const before = processes.map(openDescriptors)
  console.log('ready')
  for await (const _ of createInterface({ input: process.stdin })) console.log(await phase(MEASURED))
  await load?.end()
  await closedAgain(processes, before)
  await parent.end()
  checkCounts(total, all)
}

/** Measures since the last time, at least for `time`: others have measured, and it has been idle, meanwhile. */
function idle(pid) {
  const all = [pid, ...childrenOf(pid)]
  const cpu = () => [pid, all].map(pids => [pids].flat().reduce((sum, one) => sum + cpuTime(one), 0))
  let last = { time: performance.now(), cpu: cpu() }
  return async time => {
    if (childrenOf(pid).length !== WORKERS) throw new Error(`${childrenOf(pid).length} workers, and not ${WORKERS}`)
    const left = last.time + LONGER * time - performance.now()
    if (left > 0) await sleep(left)
    const now = { time: performance.now(), cpu: cpu() }
    const seconds = (now.time - last.time) / 1000
    const [own, everybody] = now.cpu.map((used, index) => (used - last.cpu[index]) / seconds)
    last = now
    const memory = all.reduce((sum, one) => sum + proportionalSet(one), 0)
    return `${memory / WORKERS / 1e6} cpu=${own} all=${everybody}`
  }
}

/** In µs, of all its threads: the kernel's documentation of /proc/PID/schedstat (scheduler/sched-stats). */
const cpuTime = pid =>
  readdirSync(`/proc/${pid}/task`).reduce(
    (sum, task) => sum + Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]) / 1000,
    0
  )

/** In bytes; of a page that several processes have mapped, a share: proc_pid_smaps(5). */
export const proportionalSet = pid =>
  Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]) * 1024

/** Resolves when none of the processes has more descriptors open than before. */
export async function closedAgain(processes, before) {
  const deadline = performance.now() + PATIENCE
  while (processes.some((pid, index) => openDescriptors(pid) > before[index])) {
    if (performance.now() > deadline) throw new Error('descriptors are left open')
    await sleep(20)
  }
}

/** A function that resolves when `child` says a word. It may have more to say, such as pm2 has. */
function hearing(child) {
  const lines = createInterface({ input: child.stdout })
  const ended = new Promise((_, reject) => child.once('exit', () => reject(new Error('the parent has ended'))))
  ended.catch(() => {}) // whoever waits for a word hears of it
  return word => {
    let listener
    const heard = new Promise(resolve => {
      listener = line => line.endsWith(word) && resolve()
      lines.on('line', listener)
    })
    return Promise.race([heard, ended]).finally(() => lines.off('line', listener))
  }
}

function startLoad(pid) {
  const { path = address.host, port = 0 } = address
  const [command, ...args] = [
    ...(FAR_CPU === undefined ? [] : ['taskset', '-c', FAR_CPU]),
    loadProgram,
    ...[GRACEFUL ? 'paced' : mode, CONNECTIONS, path, port, pid].map(String)
  ]
  const load = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(load, 'exit')
  process.once('exit', () => load.kill())
  const lines = createInterface({ input: load.stdout })[Symbol.asyncIterator]()
  return {
    async run(time) {
      load.stdin.write(`${time}\n`)
      const { done, value } = await lines.next()
      if (done) throw new Error('the load has ended')
      return JSON.parse(value)
    },
    /** It has paced requests until this is called. */
    go: () => load.stdin.write('\n'),
    async end() {
      load.stdin.end()
      const [code, signal] = await exited
      if (code !== 0) throw new Error(`the load exited with ${code ?? signal}`)
    }
  }
}

/** The busiest worker's share of the answers, in percent. */
function busiest(workers) {
  const counts = Object.values(workers)
  return (Math.max(...counts) / counts.reduce((sum, count) => sum + count)) * 100
}

/** What the workers say they have served is what the load has got, from each of them. */
function checkCounts(total, all) {
  const served = readFileSync(counts, 'utf8')
    .trimEnd()
    .split('\n')
    .map(line => line.split(' '))
  const sum = served.reduce((sum, [, count]) => sum + Number(count), 0)
  if (sum < total) throw new Error(`the workers have served ${sum}, the load has got ${total}`)
  for (const [pid, count] of all) {
    const own = Number(served.find(([worker]) => worker === pid)?.[1])
    if (!(own >= count)) throw new Error(`${pid} has served ${own}, the load has got ${count} from it`)
  }
}

export const openDescriptors = pid => readdirSync(`/proc/${pid}/fd`).length

export function childrenOf(pid) {
  return readdirSync(`/proc/${pid}/task`)
    .flatMap(task => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' '))
    .filter(child => child !== '')
}
