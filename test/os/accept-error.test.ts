import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { connect, listen } from '../../src/index.ts'
import * as streams from '../../src/stream/index.ts'
import { patched } from '../helpers/channels.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { limitOpenFiles, type Running, startFixture } from '../helpers/process.ts'
import { program } from '../helpers/supervising.ts'
import { test, testInCi } from '../helpers/test.ts'

const EMFILE = -24

for (const [kind, open, join] of [
  ['channel', listen, connect],
  ['stream', streams.listen, streams.connect]
] as const)
  test(`a ${kind} server that can't accept says so once, until somebody was accepted`, async t => {
    const path = temporaryPath()
    const server: any = await open(path)
    server.on('connection', (socket: any) => socket.on('error', () => {}).resume())
    const errors: NodeJS.ErrnoException[] = []
    server.on('acceptError', (error: NodeJS.ErrnoException) => errors.push(error))
    let fails = 0
    let left = 3
    const accept = (original: (fd: number) => number) => (fd: number) => {
      if (left === 0) return original(fd)
      left--
      fails++
      return EMFILE
    }
    await patched('accept', accept, async () => {
      for (const episode of [1, 2]) {
        left = 3
        const accepted = once(server, kind === 'channel' ? 'channel' : 'connection')
        const socket: any = await join(path)
        await accepted
        t.is(fails, 3 * episode)
        t.is(errors.length, episode)
        t.like(errors[episode - 1], { code: 'EMFILE', syscall: 'accept4' })
        if (kind === 'channel') await socket.close()
        else {
          const closed = once(socket, 'close')
          socket.destroy()
          await closed
        }
      }
    })
    await server.close()
  })

for (const [kind, open, join] of [
  ['channel', listen, connect],
  ['stream', streams.listen, streams.connect]
] as const)
  test(`a ${kind} server whose 'acceptError' nobody hears: one warning of the process, and few calls`, async t => {
    const path = temporaryPath()
    const server: any = await open(path)
    server.on('connection', (socket: any) => socket.on('error', () => {}).resume())
    const warnings: unknown[] = []
    const { emitWarning } = process
    process.emitWarning = (({ code, syscall }: any) => void warnings.push([code, syscall])) as never
    let calls = 0
    const accept = (original: (fd: number) => number) => (fd: number) => (++calls <= 4 ? EMFILE : original(fd))
    await patched('accept', accept, async () => {
      const accepted = once(server, kind === 'channel' ? 'channel' : 'connection')
      const socket: any = await join(path)
      await accepted
      t.true(calls <= 6, `${calls} calls`)
      socket.destroy()
      await socket.closed
    })
    process.emitWarning = emitWarning
    t.deepEqual(warnings, [['EMFILE', 'accept4']])
    await server.close()
  })

/** The words of a fixture until `count` of them are `last`. */
async function until(running: Running, last: string, count: number): Promise<string[]> {
  const lines: string[] = []
  while (lines.filter(line => line === last).length < count) lines.push(await running.line())
  return lines
}

/** The words of a fixture until an accept has failed three times more after it was told so. */
async function failures(running: Running): Promise<string[]> {
  const lines: string[] = []
  for (let more = 3; more > 0; ) {
    const line = await running.line()
    lines.push(line)
    if (line === 'failed -24' && lines.some(line => line.startsWith('told'))) more--
  }
  return lines
}

const SERVES = `
const worker = await joinSupervisor()
await worker.receive('http', connection => connection.toSocket().end('hello'))
await worker.ready()`

const KINDS = [
  ['channel', '', connect],
  ['stream', '', streams.connect],
  ['packets', '', streams.connectPackets],
  ['dispatch', ' http', streams.connect]
] as const

testInCi('a process or worker at its limit of open files is told once, then everybody is accepted', async t => {
  const paths = KINDS.map(([how]) => [how, socketPath()] as const)
  const ofWorker = socketPath()
  const running = startFixture('accepts', [program(SERVES), ...paths.flat(), 'turns', ofWorker])
  const { pid } = running.child
  const worker = Number(/^worker (\d+)$/.exec((await until(running, 'ready', 1))[0]!)![1])
  t.is(await running.line(), 'accepted')
  for (const [index, [how, listener, join]] of KINDS.entries()) {
    const [, path] = paths[index]!
    for (const episode of [1, 2]) {
      limitOpenFiles(pid!, 3)
      const sockets: Promise<any>[] = Array.from({ length: 5 }, () => join(path))
      for (const socket of sockets) void socket.catch(() => {})
      const told = (await failures(running)).filter(line => line !== 'failed -24')
      t.deepEqual(told, [`told EMFILE accept4${listener}`], `${how}, episode ${episode}`)
      limitOpenFiles(pid!, 1000)
      if (how === 'dispatch') {
        const answers = (await Promise.all(sockets)).map(socket => text(socket))
        t.deepEqual(await Promise.all(answers), Array(5).fill('hello'))
      } else {
        const accepted = (await until(running, 'accepted', 5)).filter(line => line !== 'failed -24')
        t.deepEqual(accepted, Array(5).fill('accepted'))
        for (const socket of await Promise.all(sockets)) {
          const closed = how === 'stream' ? once(socket, 'close') : socket.closed
          socket.destroy()
          await closed
        }
      }
    }
  }
  for (const episode of [1, 2]) {
    limitOpenFiles(worker, 3)
    const sockets = Array.from({ length: 5 }, () => streams.connect(ofWorker))
    let line = await running.line()
    while (line === 'failed -24') line = await running.line() // of the process itself, before
    t.is(line, 'told EMFILE accept4 http', `a worker, episode ${episode}`)
    limitOpenFiles(worker, 1000)
    const answers = (await Promise.all(sockets)).map(socket => text(socket))
    t.deepEqual(await Promise.all(answers), Array(5).fill('hello'))
  }
  running.child.stdin!.end()
  t.like(await running.exit, { code: 0, stderr: '' })
})
