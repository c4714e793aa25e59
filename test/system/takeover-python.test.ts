/** A program in Python takes part in takeovers, as the successor and as the owner: examples/python/takeover_peer.py. */
import { execFileSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { temporaryPath } from '../helpers/path.ts'
import { type Running, start } from '../helpers/process.ts'
import { stopped } from '../helpers/processes.ts'
import { systemPython } from '../helpers/programs.ts'
import { asked, startSeat } from '../helpers/takeover.ts'
import { testInCiIf } from '../helpers/test.ts'

const program = fileURLToPath(new URL('../../examples/python/takeover_peer.py', import.meta.url))
const http = { port: 0, host: '127.0.0.1' }

function hasMsgpack(): string | undefined {
  try {
    execFileSync(systemPython, ['-c', 'import msgpack'], { stdio: 'ignore' })
    return undefined
  } catch {
    return 'no python3-msgpack'
  }
}
const reason = hasMsgpack()

function startPython(t: ExecutionContext, ...args: string[]): Running & { pid: number } {
  const running = start(systemPython, [program, ...args])
  t.teardown(() => void running.child.kill('SIGKILL'))
  return { ...running, pid: running.child.pid! }
}

/** The port at which it serves. */
async function serving({ line, pid }: Running & { pid: number }): Promise<number> {
  const [, who, port] = /^python: process (\d+) serves at (\d+)$/.exec(await line()) ?? []
  if (Number(who) !== pid) throw new Error(`process ${pid} does not serve`)
  return Number(port)
}

testInCiIf(
  reason,
  'Node → Python → Node, over TCP and a Unix path: no connect() is refused, and every client is answered',
  async t => {
    const path = temporaryPath('seat')
    const unix = temporaryPath('unix')
    const options = { listeners: { http, unix: { path: unix } } }
    const one = startSeat(t, path, options)
    const [{ port }] = await one.ask<[{ port: number }]>('all')
    const files = [path, unix].map(file => statSync(file).ino)
    let over = false
    const clients = [port, unix].map(async place => {
      const pids = new Set<number>()
      while (!over) pids.add((await asked(place))[0])
      return pids
    })
    const python = startPython(t, path, '0')
    t.is(await serving(python), port)
    t.like(await one.running.exit, { code: 0, stderr: '' })
    for (const place of [port, unix]) t.deepEqual(await asked(place), [python.pid, '-'])

    const two = startSeat(t, path, options)
    await two.ask('all')
    t.is(await python.line(), `python: process ${two.pid} has taken over`)
    t.like(await python.exit, { code: 0, stderr: '' })
    for (const place of [port, unix]) t.deepEqual(await asked(place), [two.pid, '-'])
    over = true
    const pids = [one.pid, python.pid, two.pid]
    for (const seen of await Promise.all(clients))
      t.deepEqual(
        [...seen].filter(pid => !pids.includes(pid)),
        []
      )
    t.deepEqual(
      [path, unix].map(file => statSync(file).ino),
      files
    )
    await two.end()
  }
)

testInCiIf(
  reason,
  'Python is the first owner, and rolls back when its successor dies before the byte, and after it',
  async t => {
    const path = temporaryPath('seat')
    const unix = temporaryPath('unix')
    const options = { listeners: { http, unix: { path: unix } } }
    const python = startPython(t, path, '0', unix)
    const port = await serving(python)
    for (const [step, inherits] of [
      ['boot', false],
      ['mark', true]
    ] as const) {
      const seat = startSeat(t, path, { ...options, steps: { [step]: 'STOP' } })
      // It has no state to give, and says so
      const failing = seat
        .ask('open')
        .then(() => inherits && seat.ask('inherit'))
        .catch(error => error.message)
      if (inherits) t.regex(String(await failing), /ERR_PASSFD_REMOTE: .*this process has no state/)
      const attempt = inherits ? seat.ask('ready').catch(() => {}) : failing
      t.is(await seat.told('step'), step)
      await stopped(seat.pid)
      t.deepEqual(await asked(port).then(([pid]) => pid), python.pid)
      process.kill(seat.pid, 'SIGKILL')
      t.is(await python.line(), `python: process ${seat.pid} has given up`)
      await attempt
      for (const place of [port, unix]) t.deepEqual(await asked(place), [python.pid, '-'])
    }
    const last = startSeat(t, path, options)
    await last.ask('all')
    t.is(await python.line(), `python: process ${last.pid} has taken over`)
    t.like(await python.exit, { code: 0, stderr: '' })
    for (const place of [port, unix]) t.deepEqual(await asked(place), [last.pid, '-'])
    await last.end()
  }
)
