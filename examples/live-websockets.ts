// WebSockets that another process goes on with: of websockets-survive.ts and websockets-takeover.ts. It uses the public surface of ws only.
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { Connection } from 'passfd'
import { WebSocket, WebSocketServer } from 'ws'

/** One WebSocket as a process gives it to the next one. */
export interface GivenWebSocket<State> {
  id: string
  /** Its head: the client's request once more, then what the old process has read of a message that is not whole. */
  connection: Connection
  state: State
}

/**
 * A new WebSocket, or (with `state`) one that another process has begun. Returns a function that reads its state when it is given away.
 * `request` has the url, the cookies and the other headers, in each process.
 */
export type Serve<State> = (socket: WebSocket, state: State | undefined, request: IncomingMessage) => () => State

/** In the request that is repeated, its value is the WebSocket's id. Nobody else knows that. */
const RESUMES = 'x-resumes-websocket'
const MAX_PAYLOAD = 1_048_576
/** A client that does not read for so long, in ms, stays with this process. Less than handOverTimeout and freezeTimeout. */
const PATIENCE = 2000

export class LiveWebSockets<State> {
  readonly #server: Server
  readonly #serve: Serve<State>
  // With compression a connection would have more state than its bytes
  readonly #handshake = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    clientTracking: false,
    maxPayload: MAX_PAYLOAD
  })
  readonly #live = new Map<WebSocket, { request: IncomingMessage; messages: WholeMessages; state(): State }>()
  /** Those that have come from another process, until the server has read their requests. */
  readonly #expected = new Map<string, State>()

  constructor(server: Server, serve: Serve<State>) {
    this.#server = server
    this.#serve = serve
    server.on('upgrade', (request, socket, head) => this.#upgrade(request, socket as Socket, head))
  }

  get size(): number {
    return this.#live.size
  }

  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const id = `${request.headers[RESUMES]}`
    const resumes = this.#expected.has(id)
    const state = this.#expected.get(id)
    this.#expected.delete(id)
    const messages = new WholeMessages(socket, { resumes })
    this.#handshake.handleUpgrade(request, messages, NOTHING, webSocket => {
      webSocket.on('error', () => {}) // 'close' follows
      webSocket.on('close', () => this.#live.delete(webSocket))
      this.#live.set(webSocket, { request, messages, state: this.#serve(webSocket, state, request) })
      messages.begin(head)
    })
  }

  /**
   * Takes every open WebSocket out of this process. From now on `serve` hears nothing of them, not even 'close', and must not send. Those that are
   * about to close stay, and those of clients that do not read.
   */
  async freeze(): Promise<GivenWebSocket<State>[]> {
    const given: GivenWebSocket<State>[] = []
    const stay = new Set<WebSocket>()
    const signal = AbortSignal.timeout(PATIENCE)
    // Meanwhile there may be further ones
    for (let found = true; found; ) {
      const open = [...this.#live].filter(([socket]) => socket.readyState === WebSocket.OPEN && !stay.has(socket))
      found = open.length > 0
      await Promise.all(
        open.map(async ([webSocket, { request, messages, state }]) => {
          const id = randomUUID()
          stay.add(webSocket)
          try {
            const taking = messages.moveOut(repeated(request, id), signal)
            const now = state() // from here on it hears nothing
            given.push({ id, connection: await taking, state: now })
            this.#live.delete(webSocket)
          } catch {
            // It goes on here, or has closed
          }
        })
      )
    }
    return given
  }

  /** Goes on with them, in this process: the server gets each connection with its request, as if the client came anew. */
  restore(given: readonly GivenWebSocket<State>[]): void {
    for (const { id, connection, state } of given) {
      this.#expected.set(id, state)
      connection.injectInto(this.#server).once('close', () => this.#expected.delete(id))
    }
  }

  /** Says goodbye to all, and resolves when they have closed. */
  async close(code: number, reason: string): Promise<void> {
    await Promise.all(
      [...this.#live.keys()].map(async socket => {
        const closed = once(socket, 'close')
        socket.close(code, reason)
        await closed
      })
    )
  }
}

/** The client's request, with the id in place of another one that the client may have sent. */
function repeated({ method, url, rawHeaders }: IncomingMessage, id: string): Buffer {
  const lines = [`${method} ${url} HTTP/1.1`, `${RESUMES}: ${id}`]
  for (let index = 0; index < rawHeaders.length; index += 2)
    if (rawHeaders[index]!.toLowerCase() !== RESUMES) lines.push(`${rawHeaders[index]}: ${rawHeaders[index + 1]}`)
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')
}

const NOTHING = Buffer.alloc(0)
/** What is longer goes to ws as it comes, which closes the WebSocket. */
const MAX_FRAME = MAX_PAYLOAD + 14
/** Of all frames of a message, with their headers. */
const MAX_HELD = 8 * MAX_PAYLOAD

/**
 * Stands between a connection and ws. ws gets whole messages only, so it never holds a part of one: what is not whole waits here, and goes along.
 * When a WebSocket is resumed, the client has the answer to its request already: the answer that ws writes is dropped.
 */
class WholeMessages extends Duplex {
  readonly #socket: Socket
  /** Frames of a message that is not whole, then bytes of a frame that is not. */
  #frames: Buffer[] = []
  #rest: Buffer = NOTHING
  #held = 0
  #drops: boolean
  #through = false
  #waiting: (() => void) | undefined
  /** `taking`: it may be given back to ws. */
  #phase: 'live' | 'taking' | 'taken' = 'live'

  constructor(socket: Socket, { resumes }: { resumes: boolean }) {
    super()
    this.#socket = socket
    this.#drops = resumes
    socket.setTimeout(0)
    socket.setNoDelay(true)
    socket.on('drain', () => this.#drained())
    socket.on('error', error => this.destroy(error))
    socket.on('close', () => {
      if (this.#phase === 'live') this.destroy()
    })
  }

  /** ws listens by now. `head`: what was read together with the request. */
  begin(head: Buffer): void {
    this.#receive(head)
    this.#socket.on('data', bytes => this.#receive(bytes))
    this.#socket.on('end', () => {
      this.push(Buffer.concat([...this.#frames, this.#rest]))
      this.push(null)
    })
  }

  /** Takes the connection. Its head is `request` and what ws has not got. Rejects as Connection.take(), and ws goes on. */
  async moveOut(request: Buffer, signal: AbortSignal): Promise<Connection> {
    if (this.#through) throw new Error('ws has a part of a message')
    this.#phase = 'taking'
    // What ws has written leaves; what it has not read comes back
    this.#drained()
    const readers = this.listeners('data') as ((bytes: Buffer) => void)[]
    this.removeAllListeners('data')
    const unread: Buffer[] = []
    for (let bytes = this.read(); bytes !== null; bytes = this.read()) unread.push(bytes)
    try {
      const head = Buffer.concat([request, ...unread, ...this.#frames, this.#rest])
      const connection = await Connection.take(this.#socket, { head, signal })
      this.#phase = 'taken'
      return connection
    } catch (error) {
      this.#phase = 'live'
      for (const bytes of unread.reverse()) this.unshift(bytes)
      for (const reader of readers) this.on('data', reader)
      if (this.#socket.destroyed) this.destroy()
      throw error
    }
  }

  #receive(bytes: Buffer): void {
    this.#rest = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
    const whole: Buffer[] = []
    for (let length = lengthOf(this.#rest); length <= this.#rest.length; length = lengthOf(this.#rest)) {
      const frame = this.#rest.subarray(0, length)
      this.#rest = this.#rest.subarray(length)
      const [first = 0] = frame
      const isControl = (first & 0x08) !== 0
      if (isControl) whole.push(frame)
      else this.#frames.push(frame)
      const isLast = (first & 0x80) !== 0
      if (isLast && !isControl) whole.push(...this.#frames.splice(0))
    }
    this.#held = this.#frames.length === 0 ? 0 : this.#held + bytes.length
    const length = lengthOf(this.#rest)
    if (this.#through || this.#held > MAX_HELD || (length > MAX_FRAME && Number.isFinite(length))) {
      this.#through = true
      whole.push(...this.#frames.splice(0), this.#rest)
      this.#rest = NOTHING
    }
    if (whole.length > 0 && !this.push(Buffer.concat(whole))) this.#socket.pause()
  }

  override _read(): void {
    if (this.#phase === 'live') this.#socket.resume()
  }

  override _write(bytes: Buffer, _: BufferEncoding, done: (error?: Error) => void): void {
    const drops = this.#drops
    this.#drops = false
    if (this.#phase === 'taken') done(new Error('another process has this WebSocket'))
    else if (drops || this.#socket.write(bytes) || this.#phase === 'taking') done()
    else this.#waiting = done
  }

  #drained(): void {
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.()
  }

  override _final(done: () => void): void {
    if (this.#phase === 'taken') done()
    else this.#socket.end(done)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    if (this.#phase !== 'taken') this.#socket.destroy()
    done(error)
  }
}

/** Of the frame that begins here, with its header (RFC 6455, 5.2). Infinity: there is too little of it to know. */
function lengthOf(bytes: Buffer): number {
  if (bytes.length < 2) return Number.POSITIVE_INFINITY
  const mask = bytes[1]! & 0x80 ? 4 : 0
  const length = bytes[1]! & 0x7f
  if (length < 126) return 2 + mask + length
  if (bytes.length < (length === 126 ? 4 : 10)) return Number.POSITIVE_INFINITY
  return length === 126 ? 4 + mask + bytes.readUInt16BE(2) : 10 + mask + Number(bytes.readBigUInt64BE(2))
}
