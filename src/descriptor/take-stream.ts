/**
 * Takes the connection out of a live stream, and loses no byte. Meanwhile no reader gets a byte: bytes that Node has read stay in the stream, and
 * this code catches bytes that Node still reads. It waits until all written bytes are sent. Then, in one step, it takes the number and the
 * bytes, and destroys the stream. If that fails, it puts everything back, and the stream works as before.
 */

import { Socket } from 'node:net'
import { type Duplex, Readable, Writable } from 'node:stream'
import { whenAborted } from '../base/abort-signals.ts'
import { describe } from '../base/check.ts'
import { abortError, checked, PassfdError } from '../base/errors.ts'
import { native } from '../os/native.ts'
import { type Descriptor, own } from './descriptor.ts'
import { DUPLEXES, KINDS } from './kind.ts'
import { PollStream } from './poll-stream.ts'

/** The result of `take`. The caller owns the descriptor and the bytes. */
export interface Taken {
  descriptor: Descriptor
  head: Buffer
}

const CLOSED_MEANWHILE = 'it was closed before all that was written had left'
/** A stream whose number is known: of any of the kinds, or passfd's own on a pipe or terminal. */
type Live = Socket | PollStream

const taking = new WeakSet<Live>()

/** Misuse throws at the call. `head` stands in front of what the stream still holds, as it was read before that. */
export function takeStream(stream: Duplex, head: Buffer, signal: AbortSignal | undefined): Promise<Taken> {
  const live = checkStream(stream)
  if (signal?.aborted) return Promise.reject(abortError(signal))
  return isDrained(live) ? takeNow(live, head) : takeLive(live, head, signal)
}

/** Nothing has to be withheld from anybody: no other code runs meanwhile. */
async function takeNow(stream: Live, head: Buffer): Promise<Taken> {
  return taken(stream, head, [])
}

async function takeLive(stream: Live, head: Buffer, signal: AbortSignal | undefined): Promise<Taken> {
  const held = new HeldStream(stream)
  try {
    for (;;) {
      if (stream.destroyed) throw stream.errored ?? refusal(stream, CLOSED_MEANWHILE)
      if (isDrained(stream)) return held.take(head)
      await drain(stream, held, signal)
    }
  } catch (error) {
    held.putBack()
    throw error
  }
}

/** Everything that was written has left for the kernel, and an end() has shut it down. */
function isDrained(stream: Live): boolean {
  return (
    !(stream as { connecting?: boolean }).connecting &&
    stream.writableLength === 0 &&
    (!stream.writableEnded || stream.writableFinished)
  )
}

/** Resolves when everything that is written so far has been sent; the program may write more meanwhile. */
function drain(stream: Live, held: HeldStream, signal: AbortSignal | undefined): Promise<void> {
  held.uncork()
  return new Promise((resolve, reject) => {
    let failure: Error | undefined
    const onError = (error: Error): void => {
      failure = error
    }
    const settle = (error: Error | undefined): void => {
      stream.off('error', onError).off('close', onClose).off('finish', onFinish)
      forget()
      if (error === undefined) resolve()
      else reject(error)
    }
    const onClose = (): void => settle(failure ?? refusal(stream, CLOSED_MEANWHILE))
    const onFinish = (): void => settle(undefined)
    stream.on('error', onError).on('close', onClose)
    const forget = whenAborted(signal, () => settle(abortError(signal!)))
    if (stream.writableEnded) stream.on('finish', onFinish)
    // An empty write is called back once those before it are done; if that fails, 'close' follows
    else
      Writable.prototype.write.call(stream, '', 'latin1', (error?: Error | null) => {
        if (error === null || error === undefined) settle(undefined)
      })
  })
}

/** A stream whose reading is withheld from everybody. */
class HeldStream {
  readonly #stream: Live
  readonly #allowHalfOpen: boolean
  readonly #ended: boolean
  readonly #flowing: boolean | null
  readonly #readsIntoOwnBuffer: boolean
  /** What came since; null: the end. */
  readonly #caught: (Buffer | null)[] = []
  readonly #covers: (() => void)[] = []
  #corked = 0

  constructor(stream: Live) {
    this.#stream = stream
    this.#allowHalfOpen = stream.allowHalfOpen
    this.#ended = stream.readableEnded
    this.#flowing = stream.readableFlowing
    this.#readsIntoOwnBuffer = symbolValue(stream, 'kBuffer') !== null
    taking.add(stream)
    // Not only pause(): 'readable' listeners, iterators and pipes go on reading after that
    this.#cover('read', () => null)
    this.#cover('push', (chunk: Buffer | null) => {
      this.#caught.push(chunk)
      return false // Node stops to read
    })
    stream.allowHalfOpen = true // otherwise Node would answer the peer's end by an end of this side
    if (this.#flowing || this.#readsIntoOwnBuffer) stream.pause()
  }

  /** Sends corked writes, too. */
  uncork(): void {
    for (; this.#stream.writableCorked > 0; this.#corked++) this.#stream.uncork()
  }

  /** If it throws, the stream is still withheld. */
  take(head: Buffer): Taken {
    return taken(this.#stream, head, this.#caught, () => this.#uncover())
  }

  /** The stream is as it was, and has what came meanwhile. */
  putBack(): void {
    const stream = this.#stream
    this.#uncover()
    taking.delete(stream)
    if (stream.destroyed) return
    stream.allowHalfOpen = this.#allowHalfOpen
    for (; this.#corked > 0; this.#corked--) stream.cork()
    for (const chunk of this.#caught) stream.push(chunk)
    if (this.#caught.includes(null)) stream.read(0)
    const flows = this.#flowing || stream.readableFlowing // the program may have begun to read it meanwhile
    // resume() does nothing to one that flows
    ;(stream as { readableFlowing: boolean | null }).readableFlowing = flows ? false : this.#flowing
    if (flows) stream.resume()
    else {
      if (this.#readsIntoOwnBuffer) stream.read(0)
      else process.nextTick(() => stream.readableLength > 0 && stream.emit('readable'))
    }
    if (!this.#allowHalfOpen && stream.readableEnded && !this.#ended) stream.end()
  }

  #cover(name: 'read' | 'push', value: (...given: never[]) => unknown): void {
    this.#covers.push(cover(this.#stream, name, value))
  }

  #uncover(): void {
    for (const uncover of this.#covers.splice(0).reverse()) uncover()
  }
}

/** The one moment: nothing else runs between its lines. `caught` is what came after the stream's own bytes. */
function taken(stream: Live, head: Buffer, caught: readonly (Buffer | null)[], uncover?: () => void): Taken {
  const descriptor = own(checked(native.dup(numberIn(stream)), 'dup'))
  const buffered = readBuffered(stream)
  uncover?.()
  stream.destroy() // this closes the stream's number; the connection lives on in the duplicate
  if (buffered === null && caught.length === 0) return { descriptor, head }
  return { descriptor, head: Buffer.concat([head, buffered, ...caught].filter(chunk => chunk !== null)) }
}

function readBuffered(stream: Live): Buffer | null {
  const { readableLength } = stream
  if (readableLength === 0) return null
  const uncover = cover(stream, 'emit', () => false) // read() would give it to 'data' listeners as well
  try {
    // Exactly so much, because further reading would reach the end of the stream and emit 'end'
    return Readable.prototype.read.call(stream, readableLength)
  } finally {
    uncover()
  }
}

/** Returns what ends it. */
function cover(stream: Live, name: 'read' | 'push' | 'emit', value: (...given: never[]) => unknown): () => void {
  const before = Object.getOwnPropertyDescriptor(stream, name)
  Object.defineProperty(stream, name, { value, configurable: true, writable: true })
  return () => {
    delete (stream as Partial<Live>)[name]
    if (before !== undefined) Object.defineProperty(stream, name, before)
  }
}

/** Throws ERR_PASSFD_CONNECTION_SOURCE, with what to do, for a stream whose connection can't be taken out of it. */
function checkStream(stream: unknown): Live {
  if (!(stream instanceof Socket || stream instanceof PollStream))
    throw refusal(stream, 'take() needs a net.Socket, or what toDuplex() gave; for other streams see Descriptor.from()')
  if ((stream as { encrypted?: boolean }).encrypted)
    throw refusal(stream, 'the keys of TLS can not leave this process; take the TCP socket before TLS begins')
  if (stream.destroyed || stream.errored !== null) throw refusal(stream, 'it is closed; take it before that')
  if (taking.has(stream)) throw refusal(stream, 'another take() of it is under way')
  if (stream instanceof Socket) checkSocket(stream)
  if (stream.readableEncoding !== null)
    throw refusal(stream, 'setEncoding() has made text of its bytes; leave it out, and decode with TextDecoder')
  const number = numberIn(stream)
  // One that is still connecting may have no number yet
  const kind = number < 0 ? 'tcp' : (KINDS[native.kind(number)] ?? 'other')
  if (!DUPLEXES.includes(kind)) throw refusal(stream, `it is open on a ${kind}; take() needs a ${DUPLEXES.join(', ')}`)
  return stream
}

function checkSocket(stream: Socket): void {
  const handle = handleOf(stream)
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
}

/** The number in it, which stays its. */
function numberIn(stream: Live): number {
  return stream instanceof PollStream ? stream.number : (handleOf(stream)?.fd ?? -1)
}

function handleOf(socket: Socket): { fd?: number } | null | undefined {
  return (socket as { _handle?: { fd?: number } | null })._handle
}

function refusal(stream: unknown, detail: string): PassfdError {
  return new PassfdError('CONNECTION_SOURCE', { stream: describe(stream), detail })
}

/** Node 20 to 26 notes it under a symbol that it forgets to import, so under 'undefined'. */
function http2SessionOf(socket: Socket): unknown {
  return symbolValue(socket, 'kBoundSession') ?? (socket as { undefined?: unknown }).undefined
}

/** The value behind one of Node's symbols, which name the other readers of a socket; null if there is none. */
function symbolValue(stream: Live, description: string): unknown {
  const symbol = Object.getOwnPropertySymbols(stream).find(each => each.description === description)
  return symbol === undefined ? null : ((stream as unknown as Record<symbol, unknown>)[symbol] ?? null)
}
