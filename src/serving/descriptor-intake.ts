/** Looks after a function of the user's that takes connections as Descriptors: where they come from. What becomes of them is its own business. */

import { AsyncContext } from '../base/async-context.ts'
import { EINVAL } from '../base/errno.ts'
import { PassfdError, systemError } from '../base/errors.ts'
import { throwLater } from '../base/throw-later.ts'
import { type Descriptor, moveOut, own } from '../descriptor/descriptor.ts'
import { LISTENERS } from '../descriptor/kind.ts'
import { Watcher } from '../os/loop.ts'
import { FAILED, native } from '../os/native.ts'
import { acceptWaiting } from './accept.ts'
import type { Lane } from './accept-sources.ts'
import type { Serving } from './intake.ts'
import { endListeners } from './last-accept.ts'

export type ConnectionHandler = (connection: Descriptor) => unknown

const BATCH = new Int32Array(64)
/** At the limit of open files it waits this many ms before it accepts again, because no event reports that there is room. */
const ACCEPT_PAUSE = 50

export class Receiver implements Serving {
  /** Always 0, because the owner of a connection does not report its end. */
  readonly connections = 0
  readonly requestsDone = Promise.resolve()
  requests = 0
  readonly #handler: ConnectionHandler
  /** That of the `receive` call. */
  readonly #context = new AsyncContext('PASSFD_SERVE')
  readonly #lanes = new Set<ReceivingLane>()

  constructor(handler: ConnectionHandler) {
    this.#handler = handler
  }

  prepare(): void {}

  async add(listener: Descriptor, _backlog?: number, exclusive: () => boolean = () => false): Promise<Lane> {
    if (!LISTENERS.includes(listener.kind))
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation: 'receive()',
        expected: LISTENERS.join(' or '),
        actual: listener.kind
      })
    const lane = new ReceivingLane(moveOut(listener, 'receive()'), exclusive, fd => this.#handle(own(fd)))
    this.#lanes.add(lane)
    return {
      remove: async () => {
        if (this.#lanes.delete(lane)) await lane.end(false)
      }
    }
  }

  give(connection: Descriptor, onClosed?: () => void): void {
    this.#handle(connection.claim())
    onClosed?.()
  }

  async stopAccepting({ last }: { last: boolean | Promise<boolean> }): Promise<void> {
    const lanes = [...this.#lanes]
    this.#lanes.clear()
    for (const lane of lanes) lane.pause()
    const isLast = await last
    await Promise.all(lanes.map(lane => lane.end(isLast)))
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

class ReceivingLane {
  readonly #fd: number
  readonly #exclusive: () => boolean
  readonly #receive: (fd: number) => void
  readonly #watcher: Watcher
  #rest: NodeJS.Timeout | undefined
  #ended = false
  /** Accepting has failed, and that was reported. */
  #exhausted = false

  constructor(fd: number, exclusive: () => boolean, receive: (fd: number) => void) {
    this.#fd = fd
    this.#exclusive = exclusive
    this.#receive = receive
    try {
      this.#watcher = new Watcher(fd, events => this.#accept((events & FAILED) !== 0))
    } catch (error) {
      native.close(fd)
      throw error
    }
  }

  /** Stops accepting for the time being. */
  pause(): void {
    clearTimeout(this.#rest)
    this.#watcher.end()
  }

  /** Ends the lane. `last`: it first accepts the waiting connections. */
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

  #accept(failed: boolean): void {
    const count = this.#batch()
    if (count > 0) this.#exhausted = false
    if (count >= 0 && !failed) return
    if (count < 0 && count !== EINVAL) this.#cannotAccept(systemError(count, 'accept4'))
    if (this.#ended) return // in the program's own handler
    this.#watcher.want(false, false)
    // At the limit of open files; or another process has ended the listener, and the supervisor will soon tell this one to stop
    this.#rest = setTimeout(() => this.#watcher.want(true, false), ACCEPT_PAUSE)
  }

  /** Emits a process warning, because a worker has no other receiver for it: once until a connection was accepted. */
  #cannotAccept(error: Error): void {
    if (this.#exhausted) return
    this.#exhausted = true
    process.emitWarning(error)
  }

  /** Returns how many, or what is wrong. */
  #batch(): number {
    const count = native.acceptMany(this.#fd, BATCH, BATCH.length, null)
    for (const fd of Array.from(BATCH.subarray(0, Math.max(0, count)))) this.#receive(fd)
    return count
  }
}
