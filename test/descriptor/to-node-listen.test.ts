/** One listener, any server: `toListenHandle()` and `toServer()`. */
import { once } from 'node:events'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import * as net from 'node:net'
import { text } from 'node:stream/consumers'
import type { ExecutionContext } from 'ava'
import express from 'express'
import fastify from 'fastify'
import { Descriptor, type ListenHandle } from '../../src/index.ts'
import { addressOf, isOpen } from '../helpers/facts.ts'
import { startFixture, start as startProgram } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { test } from '../helpers/test.ts'

const KEY = Buffer.alloc(16, 1)
const TLS = { ciphers: 'PSK', minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const

interface Kind {
  /** Starts a server on the handle; gives what closes it. */
  start(handle: ListenHandle): Promise<() => Promise<unknown>>
  request(port: number): Promise<string>
}

function listening(server: net.Server, handle: ListenHandle): Promise<() => Promise<unknown>> {
  return new Promise(resolve => {
    server.listen(handle, () => resolve(() => new Promise(done => server.close(done))))
  })
}

function get(port: number): Promise<string> {
  return answer(http.get({ port, host: '127.0.0.1', agent: false }))
}

async function answer(request: http.ClientRequest): Promise<string> {
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  return text(response)
}

const kinds: Record<string, Kind> = {
  http: {
    start: handle =>
      listening(
        http.createServer((_, response) => response.end('served')),
        handle
      ),
    request: get
  },
  https: {
    start: handle =>
      listening(
        https.createServer({ ...TLS, pskCallback: () => KEY } as never, (_, response) => response.end('served')),
        handle
      ),
    request: port =>
      answer(
        https.get({
          port,
          host: '127.0.0.1',
          agent: false,
          ...TLS,
          checkServerIdentity: () => undefined,
          pskCallback: () => ({ psk: KEY, identity: 'test' })
        } as never)
      )
  },
  http2: {
    start: handle =>
      listening(
        http2.createServer((_, response) => void response.end('served')),
        handle
      ),
    async request(port) {
      const session = http2.connect(`http://127.0.0.1:${port}`)
      const served = await text(session.request())
      await new Promise<void>(resolve => session.close(resolve))
      return served
    }
  },
  Express: {
    start: handle =>
      new Promise(resolve => {
        const app = express().get('/', (_, response) => void response.send('served'))
        const server = app.listen(handle, () => resolve(() => new Promise(done => server.close(done))))
      }),
    request: get
  },
  Fastify: {
    async start(handle) {
      const app = fastify().get('/', async () => 'served') as unknown as ReturnType<typeof fastify>
      await app.listen(handle as never)
      return () => app.close()
    },
    request: get
  }
}

for (const [name, { start, request }] of Object.entries(kinds))
  test(`a listen handle is served by ${name}`, async t => {
    const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
    const { port } = await addressOf(listener)
    const number = listener.borrow()
    const stop = await start(listener.toListenHandle())
    t.is(await request(port), 'served')
    await stop()
    t.false(isOpen(number), 'the server has closed it')
  })

test('the backlog is the second argument of listen(), 511 without one', async t => {
  for (const [args, expected] of [
    [[], 511],
    [[7], 7]
  ] as const) {
    const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1', backlog: 3 })
    t.is(await backlogOf(t, listener), 3)
    const copy = listener.dup()
    const server = net.createServer()
    server.listen(listener.toListenHandle(), ...args)
    await once(server, 'listening')
    t.is(await backlogOf(t, copy), expected)
    await new Promise(resolve => server.close(resolve))
    copy.close()
  }
})

const BACKLOG = `
import socket, struct
listener = socket.socket(fileno=0)
print(struct.unpack_from('I', listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0])
`

/** As TCP_INFO of a listener tells (tcp(7)): in the place of tcpi_sacked. */
async function backlogOf(t: ExecutionContext, listener: Descriptor): Promise<number> {
  const { line, exit } = startProgram(systemPython, ['-c', BACKLOG], { stdio: [listener.borrow(), 'pipe', 'inherit'] })
  const backlog = Number(await line())
  t.is((await exit).code, 0)
  return backlog
}

test("in a worker of node:cluster a server listens on this process's descriptor, not on the primary's with the same number", async t => {
  const primary = startFixture('cluster-worker')
  t.deepEqual(JSON.parse(await primary.line()), {
    injectInto: 'injected /path',
    toServer: 'accepted',
    standalone: 'served /path',
    toListenHandle: 'ERR_PASSFD_CLUSTER_WORKER false'
  })
  t.deepEqual(await primary.exit, { code: 0, signal: null, stderr: '' })
})
