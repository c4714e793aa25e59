/** Gives connections as Descriptors to a function of the program, which then owns them. */

import { AsyncContext } from '../base/async-context.ts'
import { RESOLVED } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { throwLater } from '../base/throw-later.ts'
import { type Descriptor, moveOut, own } from '../descriptor/descriptor.ts'
import { LISTENERS } from '../descriptor/kind.ts'
import { Acceptor, acceptBatch, acceptWaiting } from '../os/acceptor.ts'
import { native } from '../os/native.ts'
import type { AcceptSource, Begun } from './accept-sources.ts'
import type { Intake } from './intake.ts'
import { endListeners } from './last-accept.ts'

export type ConnectionHandler = (connection: Descriptor) => unknown

export class DescriptorIntake implements Intake {
  /** Always 0, because the owner of a connection does not report its end. */
  readonly connections = 0
  readonly requestsDone = Promise.resolve()
  requests = 0
  readonly #handler: ConnectionHandler
  /** The async context of the `receive` call. */
  readonly #context = new AsyncContext('PASSFD_SERVE')
  readonly #sources = new Set<WatchedListener>()

  constructor(handler: ConnectionHandler) {
    this.#handler = handler
  }

  check(): void {}

  prepare(): void {}

  beforeRemoval(): void {}

  async add(listener: Descriptor, backlog?: number, exclusive?: () => boolean): Promise<AcceptSource> {
    return this.begin(listener, backlog, exclusive).source
  }

  begin(listener: Descriptor, _backlog?: number, exclusive: () => boolean = () => false): Begun {
    if (!LISTENERS.includes(listener.kind))
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation: 'receive()',
        expected: LISTENERS.join(' or '),
        actual: listener.kind
      })
    const source = new WatchedListener(moveOut(listener, 'receive()'), exclusive, fd => this.#handle(own(fd)))
    this.#sources.add(source)
    const end = async (last: boolean): Promise<void> => {
      if (this.#sources.delete(source)) await source.end(last)
    }
    return { source: { remove: () => end(false), empty: () => end(true) }, listening: RESOLVED }
  }

  give(connection: Descriptor, onClosed?: () => void): void {
    this.#handle(connection.claim())
    onClosed?.()
  }

  async stopAccepting({ last }: { last: boolean | Promise<boolean> }): Promise<void> {
    const sources = [...this.#sources]
    this.#sources.clear()
    for (const source of sources) source.pause()
    const isLast = await last
    await Promise.all(sources.map(source => source.end(isLast)))
  }

  async drain(): Promise<void> {}

  destroyAll(): void {}

  /** Calls the handler. If the handler throws, the error goes to the program, and the connection is closed. */
  #handle(connection: Descriptor): void {
    this.requests++
    try {
      this.#context.run(() => this.#handler(connection))
    } catch (error) {
      connection[Symbol.dispose]()
      throwLater(error)
    }
  }
}

class WatchedListener {
  readonly #fd: number
  readonly #exclusive: () => boolean
  readonly #receive: (fd: number) => void
  readonly #acceptor: Acceptor
  #ended = false

  constructor(fd: number, exclusive: () => boolean, receive: (fd: number) => void) {
    this.#fd = fd
    this.#exclusive = exclusive
    this.#receive = receive
    try {
      this.#acceptor = new Acceptor(fd, {
        accept: () => acceptBatch(fd, receive),
        onExhausted: error => process.emitWarning(error) // a worker has no other receiver for it
      })
    } catch (error) {
      native.close(fd)
      throw error
    }
    this.#acceptor.want(true)
  }

  /** Stops accepting for now. */
  pause(): void {
    this.#acceptor.end()
  }

  /** Ends it. `last`: it first accepts the waiting connections. */
  async end(last: boolean): Promise<void> {
    if (this.#ended) return
    this.#ended = true
    this.pause()
    const waiting: number[] = []
    if (last && this.#exclusive()) await endListeners([this.#fd], fd => acceptWaiting(fd, this.#receive))
    else if (last) acceptWaiting(this.#fd, connection => void waiting.push(connection))
    native.close(this.#fd)
    for (const connection of waiting) this.#receive(connection)
  }
}
