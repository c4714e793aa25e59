// A daemon that owns shells, and can be replaced while people type into them.
//   node --import tsx examples/pty-daemon.ts DIRECTORY    starts it; the same again starts its successor, which takes over
//   socat -,raw,echo=0 DIRECTORY/shell.sock               gives you a shell (Debian: socat)
import type { Socket } from 'node:net'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { spawn } from 'node-pty'
import { Connection, connect, Descriptor, listen, type Message } from 'passfd'

/** A shell and who uses it. What is typed comes from `client`; `terminal` is the master of the shell's pseudoterminal. */
interface Session<Stream> {
  pid: number
  since: Date
  terminal: Stream
  client: Stream
}
/** All that makes the daemon: a message can carry it. */
interface State {
  listener: Descriptor
  sessions: Session<Connection>[]
}

/** Two descriptors each, and the listener: a message carries 253. */
const MOST_SESSIONS = 126
/** In ms, for what is written to a client or shell that does not read. */
const PATIENCE = 1_000

const directory = process.argv[2] ?? '.'
const control = join(directory, 'daemon.sock')
const live = new Set<Session<Duplex>>()
let replaced = false

const inherited = await takeOver()
await run(inherited ?? { listener: await Descriptor.bind({ path: join(directory, 'shell.sock') }), sessions: [] })

/** What the daemon that runs here has; undefined if there is none. */
async function takeOver(): Promise<State | undefined> {
  try {
    const channel = await connect(control)
    const state = await channel.request<State>('hand over', { descriptors: 253 })
    await channel.close() // everything is here: the predecessor may go
    return state
  } catch (error) {
    if (['ENOENT', 'ECONNREFUSED'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined
    throw error
  }
}

async function run({ listener, sessions }: State): Promise<void> {
  for (const { terminal, client, ...rest } of sessions)
    attach({ ...rest, terminal: terminal.toDuplex(), client: client.toDuplex() })
  const server = await listener.dup().toServer() // a dup: the listener itself is for the successor
  server.on('connection', client => openShell(client).catch(error => client.destroy(error)))
  const successors = await listen(control)
  successors.serve(handOver)
  console.log(`daemon: process ${process.pid} has ${live.size} shells`)

  /**
   * Takes everything out of this process's hands, and gives it to the successor: all or nothing. Only a session with somebody who does
   * not read goes on here, until it ends.
   */
  async function handOver(message: Message): Promise<void> {
    await successors.close({ channels: false }) // one at a time; and the name is the successor's now
    server.close() // whoever connects now waits in the kernel's queue
    const moving = [...live].slice(0, MOST_SESSIONS)
    let returned = false
    message.channel.once('returned', unsent => {
      returned = true // the successor died before it had everything: we go on
      void run(unsent.claim().value as State)
    })
    const frozen = await Promise.all(moving.map(freeze))
    const sessions = frozen.filter(session => session !== undefined)
    void message.reply({ listener, sessions } satisfies State)
    await message.channel.closed
    setImmediate(() => {
      replaced = !returned
      exitIfDone()
    })
  }
}

async function openShell(client: Socket): Promise<void> {
  const shell = spawn('/bin/sh', [], { name: 'xterm', encoding: null })
  // node-pty is to start it, no more: it would read what is ours. Nothing public gives its stream
  const { _socket } = shell as unknown as { _socket: Socket }
  const terminal = (await Connection.take(_socket)).toDuplex()
  attach({ pid: shell.pid, since: new Date(), terminal, client })
}

function attach(session: Session<Duplex>): void {
  live.add(session)
  const { client, terminal } = session
  for (const stream of [client, terminal]) stream.on('error', () => {}).once('close', () => end(session))
  client.pipe(terminal).pipe(client)
  if (client.destroyed || terminal.destroyed) end(session)
}

function end(session: Session<Duplex>): void {
  if (!live.delete(session)) return // it has moved, or has ended
  session.terminal.destroy() // hangs up: the shell gets SIGHUP, if it still runs
  session.client.destroy()
  exitIfDone()
}

/** The bytes that were read but not written stay with their stream. Undefined for a session that has ended, or goes on here. */
async function freeze(session: Session<Duplex>): Promise<Session<Connection> | undefined> {
  const { client, terminal, ...rest } = session
  live.delete(session)
  client.unpipe(terminal)
  terminal.unpipe(client)
  const signal = AbortSignal.timeout(PATIENCE)
  const take = async (stream: Duplex) => {
    try {
      return await Connection.take(stream, { signal })
    } catch {
      return stream // somebody does not read, or has just left: then take() itself throws
    }
  }
  const [first, second] = await Promise.all([take(client), take(terminal)])
  if (first instanceof Connection && second instanceof Connection) return { ...rest, client: first, terminal: second }
  attach({ ...rest, client: streamOf(first), terminal: streamOf(second) })
  return undefined
}

function streamOf(taken: Connection | Duplex): Duplex {
  return taken instanceof Connection ? taken.toDuplex() : taken
}

function exitIfDone(): void {
  if (replaced && live.size === 0) process.exit()
}
