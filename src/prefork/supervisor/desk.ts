/** Answers the processes of unmodified programs that call `listen()`: see control/desk.ts. */
import { randomBytes } from 'node:crypto'
import { throwLater } from '../../base/throw-later.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import { type Peer, sameUserOrRoot } from '../../descriptor/peer.ts'
import { listenPackets } from '../../stream/index.ts'
import type { PacketSocket } from '../../stream/packet-socket.ts'
import type { StreamServer } from '../../stream/server.ts'
import { type Answer, type Ask, MAX_PACKET } from '../control/desk.ts'

/** An answer with its descriptors, which are moved. */
export interface Reply {
  readonly answer: Answer
  readonly descriptors: readonly Descriptor[]
}

/** A process that is stopped by a debugger right after its connect(2) asks later. */
const ASKS_WITHIN = 60_000
/** So many connections may be silent. The next one ends the oldest: a program asks right after its connect(2), so that one asks nothing. */
const MOST_SILENT = 64

/** Listens on a random abstract name. Workers know the name and their token from their environment. */
export class Desk {
  /** The abstract name. */
  readonly name: string
  readonly #server: StreamServer<PacketSocket>
  readonly #answer: (ask: Ask, peer: Peer) => Promise<Reply>
  /** Connections that have not asked, the oldest first. */
  readonly #silent = new Set<PacketSocket>()

  private constructor(
    name: string,
    server: StreamServer<PacketSocket>,
    answer: (ask: Ask, peer: Peer) => Promise<Reply>
  ) {
    this.name = name
    this.#server = server
    this.#answer = answer
    server.unref()
    server.on('connection', socket => this.#serve(socket))
    server.on('refused', () => {})
  }

  /**
   * `uid`: the workers' user, if that is not this process's own. `answer` may reject: then the process that asks sees the end of its connection, and
   * fails. Rejects with the system's error.
   */
  static async open(uid: number | undefined, answer: (ask: Ask, peer: Peer) => Promise<Reply>): Promise<Desk> {
    const name = `passfd-${process.pid}-${randomBytes(12).toString('hex')}`
    const authorize = (peer: Peer): boolean => sameUserOrRoot(peer) || peer.uid === uid
    const server = await listenPackets({ abstract: name }, { authorize, maxPacket: MAX_PACKET })
    return new Desk(name, server, answer)
  }

  async close(): Promise<void> {
    await this.#server.close()
  }

  #serve(socket: PacketSocket): void {
    const timer = setTimeout(() => socket.destroy(), ASKS_WITHIN).unref()
    socket.unref()
    socket.once('close', () => {
      clearTimeout(timer)
      this.#silent.delete(socket)
    })
    this.#silent.add(socket)
    if (this.#silent.size > MOST_SILENT) {
      const [oldest] = this.#silent
      this.#silent.delete(oldest!)
      oldest!.destroy()
    }
    socket.once('message', async ({ bytes, descriptors }) => {
      this.#silent.delete(socket)
      for (const descriptor of descriptors) descriptor.close()
      try {
        const ask = readAsk(bytes)
        if (ask === undefined) return
        const { answer, descriptors: granted } = await this.#answer(ask, socket.peer)
        try {
          await socket.send(JSON.stringify(answer), granted)
        } catch (error) {
          for (const descriptor of granted) descriptor[Symbol.dispose]()
          throw error
        }
      } catch (error) {
        if (!socketEnded(error)) throwLater(error)
      } finally {
        socket.destroy()
      }
    })
  }
}

/** Undefined: any process of the workers' user may write here, and this is no question. */
export function readAsk(bytes: Buffer): Ask | undefined {
  try {
    const { token, wanted, nth, join, left = [] } = JSON.parse(bytes.toString()) as Ask
    const isAsk = typeof token === 'string' && Number.isSafeInteger(nth) && typeof join === 'object' && join !== null
    if (!isAsk || !Array.isArray(left) || !left.every(Array.isArray)) return undefined
    return { token, nth, join, left, ...(wanted === undefined ? {} : { wanted }) }
  } catch {
    return undefined
  }
}

/** Whether the process that has asked has ended meanwhile. */
function socketEnded(error: unknown): boolean {
  return ['EPIPE', 'ECONNRESET', 'ERR_PASSFD_CLOSED', 'ERR_PASSFD_SUPERVISOR_STOPPED'].includes(
    (error as NodeJS.ErrnoException).code ?? ''
  )
}
