/** Processes of a run: started, waited for, found by a mark in their environment. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { pid as own } from 'node:process'
import { setTimeout as later } from 'node:timers/promises'

/** The variable that all processes of a run have. passfd does not pass its own (PASSFD_…) on. */
export const MARK = 'SERVERS_RUN'

/**
 * Starts a command in a session of its own. The kernel shares the processor between sessions first (sched(7), autogroup), so in one session the
 * clients would wait for the other processes of a run.
 */
export function start([command, ...args], { cwd, env }) {
  return spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
}

/** Resolves to what a command has written, if it ends well within `limit` ms. */
export async function output(command, options, limit) {
  const child = start(command, options)
  let words = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', text => {
      words += text
    })
  const timer = setTimeout(() => child.kill('SIGKILL'), limit)
  // Not 'close': a daemon that it has started may hold its output
  const [code, signal] = await once(child, 'exit')
  clearTimeout(timer)
  if (code !== 0) throw new Error(`${command.join(' ')}: ${signal ?? code}: ${words.slice(-2_000)}`)
  return words
}

/** Waits until `is()`, for `limit` ms at most. `words()`: for the error. `child`: has ended too early. */
export async function until(is, limit, words, child) {
  const deadline = performance.now() + limit
  while (!(await is())) {
    const ended = child !== undefined && (child.exitCode !== null || child.signalCode !== null)
    if (ended || performance.now() > deadline)
      throw new Error(`${ended ? 'it has ended' : `not within ${limit / 1000} s`}: ${words().slice(-2_000)}`)
    await later(20)
  }
}

export function isOpen(port) {
  return new Promise(resolve => {
    const socket = net.connect({ port, host: '127.0.0.1' })
    socket.on('connect', () => resolve(true))
    socket.on('error', () => resolve(false))
    socket.on('connect', () => socket.destroy())
  })
}

/** A port of the loopback that is free now. */
export async function freePort() {
  const server = net.createServer()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  await new Promise(resolve => server.close(resolve))
  return port
}

/** The processes with this mark: `{ pid, command, rss }`, rss in bytes. */
export function marked(mark) {
  const found = []
  for (const pid of readdirSync('/proc').filter(name => /^\d+$/.test(name) && Number(name) !== own)) {
    try {
      if (!readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`${MARK}=${mark}`)) continue
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
      const rss = Number(/^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
      found.push({ pid: Number(pid), command, rss })
    } catch {
      // It has ended
    }
  }
  return found
}
