/** A state with hundreds of live connections and pipes moves in one takeover. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'
import { times } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { startStreams } from '../helpers/takeover.ts'
import { testInCi, until } from '../helpers/test.ts'

const CONNECTIONS = times(300, 1000)
const PIPES = times(30, 100)
const CHUNK = 100

/** Sends a stream of bytes, and looks at the answer to each. */
class Client {
  readonly socket: Socket
  heard = 0
  wrong: number | undefined
  closed = false
  #sent = 0
  readonly #index: number

  constructor(port: number, index: number) {
    this.#index = index
    this.socket = connect(port, '127.0.0.1')
    this.socket.on('error', () => {})
    this.socket.on('close', () => {
      this.closed = true
    })
    this.socket.on('data', bytes => {
      for (const byte of bytes) {
        if (byte !== ((this.#byte(this.heard) ^ (31 * this.heard)) & 255)) this.wrong ??= this.heard
        this.heard++
      }
    })
  }

  #byte(at: number): number {
    return (7 * at + this.#index) & 255
  }

  send(count: number): void {
    this.socket.write(Buffer.from(Array.from({ length: count }, (_, at) => this.#byte(this.#sent + at))))
    this.#sent += count
  }

  /** It has the answer to all that it has sent. */
  get answered(): boolean {
    return this.heard === this.#sent
  }
}

function check(t: ExecutionContext, clients: readonly Client[]): void {
  const bad = clients.filter(({ wrong, closed }) => wrong !== undefined || closed)
  t.deepEqual(bad.map(({ wrong, heard, closed }) => ({ wrong, heard, closed })).slice(0, 3), [])
}

testInCi(
  'live connections and pipes, more than a message takes: every byte of each stream comes where it belongs',
  async t => {
    const path = socketPath()
    const first = startStreams(t, path, PIPES)
    const port = await first.ask<number>('begin')
    const clients = Array.from({ length: CONNECTIONS }, (_, index) => new Client(port, index))
    await Promise.all(clients.map(({ socket }) => once(socket, 'connect')))
    for (const client of clients) client.send(CHUNK)
    // Of every third one it leaves most of the bytes
    await until(() => clients.every(({ heard }) => heard >= 10), 'the first answers', 60)
    await until(
      () => clients.filter(({ answered }) => answered).length >= (2 * CONNECTIONS) / 3,
      'the other answers',
      60
    )
    t.is(await first.ask('connections'), CONNECTIONS)

    const second = startStreams(t, path, 0)
    const booting = await second.ask<number>('open')
    for (const client of clients) client.send(CHUNK / 2)
    const inheriting = second.ask<{ connections: number; heads: number }>('inherit')
    for (const client of clients) client.send(CHUNK)
    const { connections, heads } = await inheriting
    t.is(connections, CONNECTIONS)
    t.true(heads >= Math.floor(CONNECTIONS / 3), `${heads} with bytes that were read`)
    for (const client of clients) client.send(CHUNK)
    t.is(await second.ask('ready'), PIPES, 'the bytes of every pipe are right')
    await until(() => clients.every(({ answered }) => answered), 'all answers', 60)
    check(t, clients)
    t.deepEqual(await first.running.exit, { code: 0, signal: null, stderr: '' })
    for (const client of clients) client.send(CHUNK)
    await until(() => clients.every(({ answered }) => answered), 'answers of the successor alone', 60)
    check(t, clients)

    // Nothing but its own is left
    for (const { socket } of clients) socket.destroy()
    await until(() => clients.every(({ closed }) => closed), 'the clients to close')
    let left = CONNECTIONS
    while (left > 0) left = await second.ask<number>('connections')
    let [before, now] = [-1, -2]
    while (before !== now) [before, now] = [now, await second.ask<number>('open')]
    t.true(now <= booting, `${now} descriptors are open, and ${booting} were before it got the state`)
    await second.end()
  }
)
