import { once } from 'node:events'
import { connect, listen } from '../src/index.ts'
import * as streams from '../src/stream.ts'
import { patched } from './helpers/channels.ts'
import { temporaryPath } from './helpers/path.ts'
import { test } from './helpers/test.ts'

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
