/** One connection of an http, https or http2 server: knows whether a request is under way, and ends the connection gracefully. */
import diagnostics from 'node:diagnostics_channel'
import type { Server, ServerResponse } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { setImmediate } from 'node:timers'
import type { TLSSocket } from 'node:tls'
import { available, native } from '../os/native.ts'
import type { PassOn } from './intake.ts'

/** The part that all connections of a server share. */
export interface Traffic {
  requests: number
  draining: boolean
  /** ms without activity after which a connection in `drain` is idle. */
  idleGrace: number
  /** The same for a connection without a request so far. */
  newGrace: number
}

/** Properties of Node's sockets that the types lack. `parser`: null after an upgrade. */
export interface ObservedSocket extends Socket {
  [CONNECTION]?: HttpConnection
  parser?: Parser | null
  _httpMessage?: ServerResponse | null
  _handle?: { readonly fd?: number; readonly setNoDelay?: unknown } | null
  /** The server that has accepted it. Its `server` is the one that speaks HTTP on it. */
  readonly _server?: unknown
  /** Only a TLSSocket has it. */
  encrypted?: true
  /** The stream under a TLSSocket. */
  _parent?: ObservedSocket
}
/** Node's parser. `getCurrentBuffer()`: a copy of the bytes that it is parsing now, empty at other times. */
interface Parser {
  getCurrentBuffer?(): Buffer
  /** The newest request, until it has come whole and is answered. */
  incoming?: unknown
}
interface Counted extends Server {
  [TRAFFIC]?: Traffic
}
interface Response extends ServerResponse {
  _removedConnection?: boolean
}

const CONNECTION: unique symbol = Symbol('passfd.connection')
const TRAFFIC: unique symbol = Symbol('passfd.traffic')
/** The longest tick of a kernel, in ms. */
const TICK = 10
/** The highest stream id: it does not say yet which streams are still served. */
const LAST_STREAM = 2 ** 31 - 1
const HEAD_END = '\r\n\r\n'
const CR = 13
const LF = 10
let countsStarts = false
let seesEnds = false

export class HttpConnection {
  readonly raw: ObservedSocket
  readonly #traffic: Traffic
  /** What HTTP/1 is spoken on, if it is: the socket, or TLS on top of it once that is agreed upon. */
  #stream: ObservedSocket | undefined
  #session: ServerHttp2Session | undefined
  /** At the last check a request was under way that has no response yet. */
  #arriving = false
  /** Its first request has begun. */
  #used = false
  #streams = 0
  /** The first GOAWAY was sent, which asks the client to begin no more streams. */
  #warned = false
  /** The response of the newest request, until it is sent. */
  #response: Response | undefined
  /** Responses wait behind the one that is being sent, and only Node knows the newest one. */
  #pipelined = false
  /** While it drains: how many requests have begun in one read, and the bytes read with it. */
  #parsed = 0
  #parsedAt = 0
  /** The time of the last activity, by `performance.now()`. */
  #active = performance.now()
  /** The bytes read at that time. With TLS, HTTP does not notice the beginning of a record. */
  #read = 0

  /** `wasOpen`: it may have had requests before; then it is HTTP/1 over TCP. */
  constructor(raw: ObservedSocket, secure: boolean, traffic: Traffic, wasOpen = false) {
    observeStarts()
    observeEnds()
    this.raw = raw
    this.#traffic = traffic
    raw[CONNECTION] = this
    if (!secure) this.#stream = raw
    if (wasOpen) this.#lookUp()
  }

  /** Looks up what happened before this object was made. */
  #lookUp(): void {
    const { raw } = this
    this.#used = raw.bytesRead > 0
    this.#active -= quietTime(raw)
    this.#findResponse()
  }

  /** The newest request's response is the one that is being sent, unless others wait behind it. Node does not show these. */
  #findResponse(): void {
    const { _httpMessage: response, parser } = this.raw
    if (response == null) return
    this.#pipelined = parser?.incoming !== response.req
    if (!this.#pipelined) this.#response = response
  }

  /** It was upgraded: the application handles its protocol. */
  get upgraded(): boolean {
    return this.#session === undefined && this.#stream?.parser === null
  }

  /** The TLS handshake is done, and the protocol is not known yet. */
  secured(stream: TLSSocket): void {
    this.#stream = stream as ObservedSocket
    this.#stream[CONNECTION] = this
  }

  opened(session: ServerHttp2Session): void {
    this.#session = session
    this.#active = performance.now()
    session.on('stream', stream => {
      this.#streams++
      this.#used = true
      stream.once('close', () => {
        this.#streams--
        this.#active = performance.now()
      })
      if (this.#traffic.draining) this.#warn(session)
    })
  }

  begun(response: ServerResponse): void {
    this.#traffic.requests++
    this.#used = true
    this.#response = response
    this.#pipelined = false
    if (!this.#traffic.draining) return
    this.#parsed = this.#parsedInRead() + 1
    this.#closeAfter(response)
  }

  finished(response: ServerResponse): void {
    if (this.#response === response) this.#response = undefined
    this.#active = performance.now()
    if (this.#stream !== this.raw) this.#read = this.raw.bytesRead
    if (this.#pipelined) process.nextTick(() => this.#nextBegins()) // by then Node sends the next one
  }

  #nextBegins(): void {
    if (!this.#pipelined) return
    this.#findResponse()
    this.#closeNewest()
  }

  #closeNewest(): void {
    if (this.#response !== undefined && !this.#response.headersSent) this.#closeAfter(this.#response)
  }

  /** The draining has begun. */
  drain(): void {
    if (this.#session !== undefined && this.#streams > 0) this.#warn(this.#session)
    this.#closeNewest()
  }

  /**
   * Passes it on if it is idle. If nobody takes it, ends it when it has been idle for `idleGrace`. `between`: sockets on which no request has begun
   * to arrive since the last one, as Node's parsers know; `foreign`: what is no HTTP is spoken by the application itself.
   */
  sweep(now: number, between: () => ReadonlySet<unknown>, foreign: boolean, pass?: PassOn): void {
    const { raw } = this
    if (this.#session !== undefined && !this.#session.destroyed) {
      if (this.#streams === 0 && this.#isQuiet(now)) this.#session.close()
      return
    }
    const stream = this.#session === undefined ? this.#stream : undefined
    if (this.upgraded) return
    if (stream !== undefined && stream.parser === undefined && (foreign || stream === raw)) return
    if (stream !== raw && raw.bytesRead !== this.#read) {
      this.#read = raw.bytesRead
      this.#active = now
    }
    if (this.#response !== undefined || (stream?._httpMessage ?? null) !== null) return
    if (stream?.parser !== undefined && stream.bytesRead !== 0 && !between().has(stream)) {
      this.#arriving = true // maybe a request that was answered before its end
      return
    }
    if (this.#arriving) this.#active = now
    this.#arriving = false
    if (pass !== undefined && stream === raw && this.#passOn(pass) !== false) return
    if (!this.#isQuiet(now)) return
    if (stream === undefined || (stream === raw && raw.encrypted !== true)) raw.destroy()
    else stream.destroySoon() // TLS says goodbye, or the client takes it for cut off
  }

  /**
   * Sends GOAWAY (RFC 9113, 6.8). Once it has left, nghttp2 ignores new streams, and Node reads no more if no stream is open. So it is sent
   * while a stream is open, and before that stream's answer, so that the client sees it before it begins another stream. Streams in the same
   * read as the first one are still served. The second GOAWAY names the streams that were not served; the client may send these elsewhere.
   */
  #warn(session: ServerHttp2Session): void {
    if (this.#warned || session.closed || session.destroyed) return
    this.#warned = true
    session.goaway(0, LAST_STREAM)
    setImmediate(() => session.close())
  }

  #isQuiet(now: number): boolean {
    const { idleGrace, newGrace } = this.#traffic
    return now - this.#active >= (this.#used ? idleGrace : newGrace) && !hasUnread(this.raw)
  }

  /** Gives a duplicate away, and closes this process's copy without a shutdown. Bytes that arrive from now on wait for the other process. */
  #passOn(pass: PassOn): boolean | 'later' {
    const { raw } = this
    const fd = raw._handle?.fd ?? -1
    // What was written may not have left yet
    const isBetween = raw.writableLength === 0 && raw.readableLength === 0 && !raw.writableEnded && !hasUnread(raw)
    if (fd < 0 || raw.destroyed || !isBetween) return false
    const copy = native.dup(fd)
    if (copy < 0) return false
    const passed = pass(copy)
    if (passed === true) raw.destroy()
    else native.close(copy)
    return passed
  }

  /** Returns how many requests have begun in the last read. */
  #parsedInRead(): number {
    const read = this.#stream?.bytesRead ?? 0
    if (read !== this.#parsedAt) this.#parsed = 0
    this.#parsedAt = read
    return this.#parsed
  }

  /**
   * Whether bytes have arrived behind the newest request: pipelined requests, which the client would lose. A program may answer while Node has not
   * parsed them yet. If it can't be known, they count as more: the connection is idle soon.
   */
  #hasMore({ req: { headers } }: Response): boolean {
    const bytes = this.#stream?.parser?.getCurrentBuffer?.()
    if (bytes === undefined || bytes.length === 0) return this.#stream === this.raw && hasUnread(this.raw)
    const parsed = this.#parsedInRead()
    const length = Number(headers['content-length'] ?? 0)
    if (parsed === 1 && length > 0) return bytes.length - bytes.indexOf(HEAD_END) - HEAD_END.length > length
    const chunked = headers['transfer-encoding'] !== undefined
    if (parsed > 0 && !chunked && bytes.toString('latin1', bytes.length - HEAD_END.length) !== HEAD_END) return true
    // The end of a chunked body looks like that of a head
    return countHeads(bytes) > parsed + (chunked ? 1 : 0)
  }

  /** Pipelined requests behind it are answered, too, so only the last response has `Connection: close`. */
  #closeAfter(response: Response): void {
    const { writeHead } = response
    response.writeHead = (...args: unknown[]): Response => {
      if (this.#response === response && !this.#hasMore(response)) {
        response.shouldKeepAlive = false
        const index = typeof args[1] === 'string' || args[2] != null ? 2 : 1
        args[index] = withClose(args[index])
        const set = response.getHeader('connection')
        if (set !== undefined || response._removedConnection === true) response.setHeader('Connection', closing(set))
      }
      return Reflect.apply(writeHead, response, args)
    }
  }
}

/** Returns how often the end of a head stands in bytes. Those that begin within one count as one more. */
function countHeads(bytes: Buffer): number {
  let count = bytes[0] === CR || bytes[0] === LF ? 1 : 0
  for (let at = bytes.indexOf(HEAD_END); at >= 0; at = bytes.indexOf(HEAD_END, at + HEAD_END.length)) count++
  return count
}

/** Whether bytes have arrived that this process has not read. Without the shim nothing but the next read shows that. */
function hasUnread(socket: ObservedSocket): boolean {
  const fd = socket._handle?.fd ?? -1
  return available && fd >= 0 && native.pending(fd) > 0
}

/** Returns the connection of a server's socket. */
export function connectionOn(socket: ObservedSocket): HttpConnection | undefined {
  return socket[CONNECTION]
}

/**
 * Milliseconds since the last byte in either direction, or since the handshake. At most the true value, because an idle connection must not be closed
 * too early.
 */
function quietTime(socket: ObservedSocket): number {
  const fd = socket._handle?.fd ?? -1
  return available && fd >= 0 ? Math.max(0, native.quiet(fd) - TICK) : 0
}

/** Counts the requests of the server's connections without an HttpConnection. */
export function countRequests(server: object, traffic: Traffic): void {
  observeStarts()
  ;(server as Counted)[TRAFFIC] = traffic
}

interface Exchange {
  readonly socket: ObservedSocket
  readonly response: ServerResponse
  readonly server: Counted
}

/**
 * Counts requests by Node's diagnostics channels, which report each request of the process. A 'request' listener would change how the server
 * behaves. These channels also report requests with `Expect`, and requests that Node itself answers.
 */
function observeStarts(): void {
  if (countsStarts) return
  countsStarts = true
  diagnostics.subscribe('http.server.request.start', message => {
    const { socket, response, server } = message as Exchange
    const connection = socket[CONNECTION]
    if (connection !== undefined) {
      connection.begun(response)
      return
    }
    const traffic = server[TRAFFIC]
    if (traffic !== undefined) traffic.requests++
  })
}

function observeEnds(): void {
  if (seesEnds) return
  seesEnds = true
  diagnostics.subscribe('http.server.response.finish', message => {
    const { socket, response } = message as Exchange
    socket[CONNECTION]?.finished(response)
  })
}

/** Returns headers of writeHead(), with `Connection: close` if they have a Connection header. */
function withClose(headers: unknown): unknown {
  if (Array.isArray(headers))
    return headers.map((value, index) => (index % 2 === 1 && isConnection(headers[index - 1]) ? closing(value) : value))
  if (typeof headers !== 'object' || headers === null) return headers
  const names = Object.keys(headers).filter(isConnection)
  if (names.length === 0) return headers
  const copy = { ...headers } as Record<string, unknown>
  for (const name of names) copy[name] = closing(copy[name])
  return copy
}

function isConnection(name: unknown): boolean {
  return String(name).toLowerCase() === 'connection'
}

function closing(value: unknown): string {
  const tokens = value === undefined ? [] : String(value).split(',')
  const others = tokens.map(token => token.trim()).filter(token => !/^(keep-alive|close|)$/i.test(token))
  return [...others, 'close'].join(', ')
}
