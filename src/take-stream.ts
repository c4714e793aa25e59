/**
 * Takes a live socket out of Node, losing nothing. From the call until the end nobody is given a byte of it: what Node has read stays
 * in the stream, what it reads meanwhile is caught here; what was written is waited for. Then, in one go, number and bytes are taken
 * and the stream is destroyed. If that is not to be, everything is put back and the stream goes on.
 */
import { Socket } from 'node:net'
import { type Duplex, Readable, Writable } from 'node:stream'
import { describe, numberOf, SOCKETS } from './convert.ts'
import { type Descriptor, KINDS, own } from './descriptor.ts'
import { abortError, checked, PassfdError } from './errors.ts'
import { native } from './native.ts'

/** The other side of `take`: both are the caller's. */
export interface Taken {
  descriptor: Descriptor
  head: Buffer
}

const CLOSED_MEANWHILE = 'it was closed before all that was written had left'
const taking = new WeakSet<Socket>()

/** Misuse throws at the call. `head` stands in front of what the stream still holds, as it was read before that. */
export function takeStream(stream: Duplex, head: Uint8Array, signal: AbortSignal | undefined): Promise<Taken> {
  const socket = checkStream(stream)
  if (signal?.aborted) return Promise.reject(abortError(signal))
  return takeSocket(socket, Buffer.from(head), signal)
}

async function takeSocket(socket: Socket, head: Buffer, signal: AbortSignal | undefined): Promise<Taken> {
  const held = new HeldStream(socket)
  try {
    for (;;) {
      if (socket.destroyed) throw socket.errored ?? refusal(socket, CLOSED_MEANWHILE)
      if (isDrained(socket)) return held.take(head)
      await drain(socket, held, signal)
    }
  } catch (error) {
    held.putBack()
    throw error
  }
}

/** Everything that was written has left for the kernel, and an end() has shut it down. */
function isDrained(socket: Socket): boolean {
  return !socket.connecting && socket.writableLength === 0 && (!socket.writableEnded || socket.writableFinished)
}

/** Resolves when what is written by now has left; more may have come since. */
function drain(socket: Socket, held: HeldStream, signal: AbortSignal | undefined): Promise<void> {
  held.uncork()
  return new Promise((resolve, reject) => {
    let failure: Error | undefined
    const onError = (error: Error): void => {
      failure = error
    }
    const settle = (error: Error | undefined): void => {
      socket.off('error', onError).off('close', onClose).off('finish', onFinish)
      signal?.removeEventListener('abort', onAbort)
      if (error === undefined) resolve()
      else reject(error)
    }
    const onClose = (): void => settle(failure ?? refusal(socket, CLOSED_MEANWHILE))
    const onFinish = (): void => settle(undefined)
    const onAbort = (): void => settle(abortError(signal!))
    socket.on('error', onError).on('close', onClose)
    signal?.addEventListener('abort', onAbort)
    if (socket.writableEnded) socket.on('finish', onFinish)
    // An empty write is called back once those before it are done; if that fails, 'close' follows
    else
      Writable.prototype.write.call(socket, '', 'latin1', (error?: Error | null) => {
        if (error === null || error === undefined) settle(undefined)
      })
  })
}

/** A socket whose reading is withheld from everybody. */
class HeldStream {
  readonly #socket: Socket
  readonly #allowHalfOpen: boolean
  readonly #flowing: boolean | null
  readonly #readsIntoOwnBuffer: boolean
  /** What came since; null: the end. */
  readonly #caught: (Buffer | null)[] = []
  readonly #covers: (() => void)[] = []
  #corked = 0

  constructor(socket: Socket) {
    this.#socket = socket
    this.#allowHalfOpen = socket.allowHalfOpen
    this.#flowing = socket.readableFlowing
    this.#readsIntoOwnBuffer = symbolValue(socket, 'kBuffer') !== null
    taking.add(socket)
    // Not only pause(): 'readable' listeners, iterators and pipes go on reading after that
    this.#cover('read', () => null)
    this.#cover('push', (chunk: Buffer | null) => {
      this.#caught.push(chunk)
      return false // Node stops to read
    })
    socket.allowHalfOpen = true // Node would answer the peer's end with one of ours
    if (this.#flowing || this.#readsIntoOwnBuffer) socket.pause()
  }

  /** What is corked was written, too. */
  uncork(): void {
    for (; this.#socket.writableCorked > 0; this.#corked++) this.#socket.uncork()
  }

  /** The one moment: nothing else runs between its lines. */
  take(head: Buffer): Taken {
    const socket = this.#socket
    const descriptor = own(checked(native.dup(numberOf(socket)), 'dup'))
    const rest = [head, this.#readBuffered(), ...this.#caught].filter(chunk => chunk !== null)
    this.#uncover()
    socket.destroy() // the number leaves the loop with it, then it is closed; the connection lives on in ours
    return { descriptor, head: Buffer.concat(rest) }
  }

  /** The stream is as it was, and has what came meanwhile. */
  putBack(): void {
    const socket = this.#socket
    this.#uncover()
    taking.delete(socket)
    if (socket.destroyed) return
    socket.allowHalfOpen = this.#allowHalfOpen
    for (; this.#corked > 0; this.#corked--) socket.cork()
    for (const chunk of this.#caught) socket.push(chunk)
    if (this.#caught.includes(null)) socket.read(0)
    if (this.#flowing) socket.resume()
    else {
      ;(socket as { readableFlowing: boolean | null }).readableFlowing = this.#flowing
      if (this.#readsIntoOwnBuffer) socket.read(0)
      else process.nextTick(() => socket.readableLength > 0 && socket.emit('readable'))
    }
    if (!this.#allowHalfOpen && socket.readableEnded) socket.end()
  }

  #readBuffered(): Buffer | null {
    const socket = this.#socket
    const { readableLength } = socket
    if (readableLength === 0) return null
    this.#cover('emit', () => false) // read() would give it to 'data' listeners as well
    // Exactly so much: to read on would be to see the end, and to tell of it
    return Readable.prototype.read.call(socket, readableLength)
  }

  #cover(name: 'read' | 'push' | 'emit', value: (...given: never[]) => unknown): void {
    const socket = this.#socket
    const before = Object.getOwnPropertyDescriptor(socket, name)
    Object.defineProperty(socket, name, { value, configurable: true, writable: true })
    this.#covers.push(() => {
      delete (socket as Partial<Socket>)[name]
      if (before !== undefined) Object.defineProperty(socket, name, before)
    })
  }

  #uncover(): void {
    for (const uncover of this.#covers.splice(0).reverse()) uncover()
  }
}

/** Throws ERR_PASSFD_CONNECTION_SOURCE, with what to do, for a stream whose connection can't be taken out of it. */
function checkStream(stream: unknown): Socket {
  if (!(stream instanceof Socket))
    throw refusal(stream, 'take() needs a net.Socket, or what toDuplex() gave; for other streams see Descriptor.from()')
  const handle = (stream as { _handle?: object | null })._handle
  if ((stream as { encrypted?: boolean }).encrypted)
    throw refusal(stream, 'the keys of TLS can not leave this process; take the TCP socket before TLS begins')
  if (stream.destroyed || stream.errored !== null) throw refusal(stream, 'it is closed; take it before that')
  if (taking.has(stream)) throw refusal(stream, 'another take() of it is under way')
  if (handle === null || handle === undefined) throw refusal(stream, 'it is not connected; call connect() first')
  if ((stream as { parser?: unknown }).parser)
    throw refusal(
      stream,
      "http is reading from it; take it in a net.Server's 'connection' event before http sees it, or in 'upgrade' with its head"
    )
  if (http2SessionOf(stream))
    throw refusal(stream, "http2 is reading from it; take it in a net.Server's 'connection' event before http2 sees it")
  if (Object.getOwnPropertyDescriptor(handle, 'reading')?.get !== undefined)
    throw refusal(stream, "TLS is reading from it; take it in a net.Server's 'connection' event before TLS sees it")
  if (stream.readableEncoding !== null)
    throw refusal(stream, 'setEncoding() has made text of its bytes; leave it out, and decode with TextDecoder')
  const number = stream.connecting ? undefined : numberOf(stream)
  const kind = number === undefined ? 'tcp' : (KINDS[native.kind(number)] ?? 'other')
  if (!SOCKETS.includes(kind)) throw refusal(stream, `it is open on a ${kind}; take() needs a ${SOCKETS.join(', ')}`)
  return stream
}

function refusal(stream: unknown, detail: string): PassfdError {
  return new PassfdError('CONNECTION_SOURCE', { stream: describe(stream), detail })
}

/** Node 20 to 26 notes it under a symbol that it forgets to import, so under 'undefined'. */
function http2SessionOf(socket: Socket): unknown {
  return symbolValue(socket, 'kBoundSession') ?? (socket as { undefined?: unknown }).undefined
}

/** Node keeps behind symbols who else reads from a socket; null if there is nobody. */
function symbolValue(socket: Socket, description: string): unknown {
  const symbol = Object.getOwnPropertySymbols(socket).find(each => each.description === description)
  return symbol === undefined ? null : ((socket as unknown as Record<symbol, unknown>)[symbol] ?? null)
}
