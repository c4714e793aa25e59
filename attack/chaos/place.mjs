// Where a server of the attack listens, and what its workers find out about each other: argv[2], JSON.
// { kind, folder, workers, listeners: { http, http6, tls, http2, raw }, unix, udp, udp6, options }
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { serverOf } from '../../test/system/load/answers.mjs'

// Servers load it at the first WebSocket, and a process at its limit of open files can't. As they do, because `import` reads other files of it
createRequire(import.meta.url)('ws')

export const place = JSON.parse(process.argv[2])
/** By which kind of answers.mjs each listener is served. */
const SERVED = { http: 'http', http6: 'http', tls: 'https', http2: 'http2', raw: 'raw', unix: 'http' }

/** A server for each listener, by its name. None closes an idle connection by itself. `ending`: see answers.mjs. */
export function servers(ending) {
  return Object.entries(SERVED).map(([name, kind]) => {
    const server = serverOf(kind, ending)
    if (kind === 'http') server.keepAliveTimeout = 600_000
    return [name, server]
  })
}

const own = name => join(place.folder, name)

/** What the attack has written there; '' if nothing. */
export function read(name) {
  try {
    return readFileSync(own(name), 'utf8')
  } catch {
    return ''
  }
}

/** What the attack may do to a worker: to let it fail at its start, and to block its event loop by SIGUSR2. Resolves unless it is to hang. */
export async function begin() {
  process.on('SIGUSR2', () => block(Number(read('block'))))
  const boot = read('boot')
  if (boot === 'exit') process.exit(3)
  if (boot === 'throw') throw new Error('it fails at its start')
  if (boot === 'block') block(60_000)
  if (boot === 'hang') await new Promise(resolve => setTimeout(resolve, 60_000))
}

export function block(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

/**
 * Answers datagrams. A file says how many this process has received and how many of them it has answered, so that the attack knows what it had in its hands
 * when it was killed. Returns what ends that.
 */
export function answerDatagrams(socket) {
  const file = openSync(own(`datagrams-${process.pid}`), 'a+')
  closeSync(file)
  const counts = openSync(own(`datagrams-${process.pid}`), 'r+')
  const both = new Uint32Array(2)
  const count = which => {
    both[which]++
    writeSync(counts, new Uint8Array(both.buffer), 0, 8, 0)
  }
  let waiting = 0
  let ending = false
  const end = () => {
    if (waiting === 0) socket.close()
  }
  socket.on('message', (data, { port, address }) => {
    count(0)
    waiting++
    socket.send(data, port, address, () => {
      count(1)
      waiting--
      if (ending) end()
    })
  })
  return () => {
    if (ending) return
    ending = true
    end()
  }
}

/** Leaves in a file each second how long the event loop was delayed since the last time, in ms, at most. */
export function reportDelay() {
  const histogram = monitorEventLoopDelay({ resolution: 20 })
  histogram.enable()
  const file = openSync(own(`delay-${process.pid}`), 'w')
  setInterval(() => {
    writeSync(file, `${Math.round(histogram.max / 1e6)}`.padEnd(12), 0)
    histogram.reset()
  }, 1000).unref()
}
