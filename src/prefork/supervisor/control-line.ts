/** The control channel of one worker: the messages from it and to it. */
import { describe } from '../../base/check.ts'
import type { PassfdError } from '../../base/errors.ts'
import { type Channel, sessionOf } from '../../channel/channel.ts'
import { ownPair } from '../../channel/connect.ts'
import type { Message } from '../../channel/message.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import { SOCKETS } from '../../descriptor/kind.ts'
import {
  type Accepted,
  type Beat,
  type FromSupervisor,
  type FromWorker,
  type HandsOver,
  type Idle,
  type Join,
  LEAST,
  type Leaves,
  MAX_UNCONFIRMED,
  NEWEST,
  TO_FIRST_WORKERS,
  type Uses,
  type Welcome
} from '../control/control.ts'
import { faultIn, MAX_BODY, wordsOf } from '../control/from-worker.ts'

/** The most messages `idle` of one worker that wait for other workers. A worker of passfd sends one after the other. */
const MAX_IDLE = 2

/** The time in ms to read the last messages of a dead process. It is limited, because children of that process may keep the channel open. */
const LAST_WORDS = 1000

/** The owner of the worker's state. */
export interface LineOwner {
  /** Called for every message, before it is handled: the worker lives. */
  onHeard(): void
  /** The worker's program has called joinSupervisor(). Returns the answer. */
  onJoin(join: Join): Omit<Welcome, 'version'>
  onUses(uses: Uses): void
  /** Its program has closed the server of a listener. */
  onLeaves(leaves: Leaves): void
  /** Its program has called `handOver()` or `onInherit()`. */
  onHandsOver(how: HandsOver): void
  onReady(): void
  onBeat(beat: Beat): void
  /** So many of the connections that it was sent have closed. */
  onClosed(count: number): void
  /** It has accepted connections as told, or has found the queue empty. */
  onAccepted(accepted: Accepted): void
  /** It stops on its own. Resolves to whether the supervisor has closed its listeners. */
  onStopping(): Promise<boolean>
  /** The uncaught exception that will end it. Undefined: its program has handled the exception. */
  onException(words: string | undefined): void
  /** It and the supervisor have no protocol version in common. The line informs the worker. */
  onRefused(reason: string): void
  /** It has sent a message that is not valid. */
  onNonsense(reason: string): void
  /** Whether it may pass idle connections on now. */
  mayPass(): boolean
  /** It stops, and others go on with these idle connections. The callee owns them. Resolves when it may send more. */
  onIdle(name: string, connections: readonly Descriptor[]): Promise<void>
  /** It has taken all connections that it was sent. */
  onAllTaken(): void
  /** It had not taken these connections before its channel ended. The callee owns them. `idle`: another worker had passed them on. */
  onReturned(name: string, connections: readonly Descriptor[], idle: boolean): void
  /** A message could not be sent to it, although its channel is open. */
  onBroken(error: unknown): void
  /** The channel has ended. */
  onEnd(error: Error | undefined): void
}

export class ControlLine {
  readonly #channel: Channel<FromWorker, FromSupervisor>
  readonly #owner: LineOwner
  #version = 1
  #joined = false
  /** The number of messages `idle` that wait for other workers. */
  #idle = 0

  private constructor(channel: Channel<FromWorker, FromSupervisor>, owner: LineOwner) {
    this.#channel = channel
    this.#owner = owner
    this.#hear()
  }

  /**
   * Makes a line, and the worker's end of it, which the caller owns. `closesAtOnce`: closing copies of connections that the supervisor has accepted, and
   * the worker has taken, never blocks.
   */
  static open(closesAtOnce: boolean, owner: LineOwner): [ControlLine, Descriptor] {
    const [channel, theirs] = ownPair<FromWorker, FromSupervisor>(
      { maxInFlight: 2 * MAX_UNCONFIRMED, maxMessage: MAX_BODY },
      closesAtOnce
    )
    return [new ControlLine(channel.unref(), owner), theirs]
  }

  /** The version of the control protocol; 1 before the worker has joined. */
  get version(): number {
    return this.#version
  }

  /** The worker's program has called joinSupervisor(). */
  get joined(): boolean {
    return this.#joined
  }

  /** The number of connections that were sent to it and that it has not taken. */
  get unconfirmed(): number {
    return sessionOf(this.#channel).descriptorsOut
  }

  /** Moves the Descriptors in the message, even if sending fails. Resolves when the worker has room for more. */
  async send(message: FromSupervisor): Promise<void> {
    if (this.#version < 2 && !TO_FIRST_WORKERS.includes(message.type)) return
    try {
      await this.#channel.send(message)
    } catch (error) {
      if ((error as PassfdError).code === 'ERR_PASSFD_CLOSED') return // the connections come back in 'returned'
      // Its channel has ended, and its exit will be reported soon. The connections of the message are not lost:
      if (message.type === 'connections')
        this.#owner.onReturned(
          message.name,
          message.connections.filter(one => !one.closed),
          message.idle === true
        )
      else if (message.type === 'lend') message.listener[Symbol.dispose]()
      else if (message.type === 'counts') message.memory[Symbol.dispose]()
      else if (message.type === 'give' || message.type === 'inherit') message.end[Symbol.dispose]()
      else if ((error as PassfdError).code !== 'ERR_PASSFD_CHANNEL_CLOSED') this.#owner.onBroken(error)
    }
  }

  /** Resolves to true when the worker has answered, or to false when its channel has ended. */
  async request(message: FromSupervisor): Promise<boolean> {
    try {
      await this.#channel.request(message, { descriptors: 0, timeout: 0 })
      return true
    } catch {
      // Its channel has ended, and the worker will end, too
      if (message.type === 'give') message.end[Symbol.dispose]()
      return false
    }
  }

  /** Call it when the process has ended. Resolves when all its messages are read. */
  lastWords(): Promise<void> {
    return lastWords(this.#channel)
  }

  #hear(): void {
    const channel = this.#channel
    sessionOf(channel).onAllTaken = () => this.#owner.onAllTaken()
    channel.serve(message => this.#onMessage(message), {
      onError: error => this.#owner.onNonsense(`it said something that is not understood: ${error.message}`)
    })
    channel.on('returned', returned => {
      const { value } = returned
      if (value.type !== 'connections') return
      returned.claim()
      this.#owner.onReturned(value.name, returned.descriptors, value.idle === true)
    })
    channel.once('close', error => this.#owner.onEnd(error))
  }

  #onMessage({ value, isRequest }: Message<FromWorker>): unknown {
    const owner = this.#owner
    owner.onHeard()
    // A worker of version 1 does not report that it has handled an exception, but any further message shows it
    if (this.#version < 2) owner.onException(undefined)
    const fault = typeof value?.type === 'string' ? faultIn(value) : undefined
    if (fault !== undefined) {
      owner.onNonsense(fault)
      if (isRequest) throw new Error(fault)
      return
    }
    switch (value?.type) {
      case 'join':
        return this.join(value)
      case 'uses':
        return owner.onUses(value)
      case 'leaves':
        return owner.onLeaves(value)
      case 'handsOver':
        return owner.onHandsOver(value)
      case 'ready':
        return owner.onReady()
      case 'beat':
        return owner.onBeat(value)
      case 'closed':
        return owner.onClosed(value.count)
      case 'accepted':
        return owner.onAccepted(value)
      case 'stopping':
        return owner.onStopping()
      case 'idle':
        return this.#passOn(value)
      case 'failed':
        return owner.onException(`it failed with ${wordsOf(value.name)}: ${wordsOf(value.message)}`)
      case 'recovered':
        return owner.onException(undefined)
      default: // of a newer version: see control.ts
    }
  }

  /** Gives idle connections of the worker to the owner. Throws if the worker may not pass them on. */
  async #passOn({ name, connections }: Idle): Promise<void> {
    if (!this.#owner.mayPass() || this.#idle >= MAX_IDLE) throw new Error('this worker may not pass connections on now')
    const claimed = claimAll(connections)
    this.#idle++
    try {
      await this.#owner.onIdle(`${name}`, claimed)
    } finally {
      this.#idle--
    }
  }

  /** The worker joins: returns the answer. Throws if the two have no version in common, or if it has joined before: each join takes memory. */
  join(join: Join): Welcome {
    if (this.#joined) throw new Error('a second join')
    const { version: least, newest = least } = join
    const speaks = Number.isInteger(least) && Number.isInteger(newest)
    const version = speaks ? Math.min(NEWEST, newest) : 0
    if (!speaks || version < Math.max(LEAST, least)) {
      const range = `${describe(least)} to ${describe(newest)}`
      const reason = `the supervisor speaks versions ${LEAST} to ${NEWEST} of the control protocol, and the worker ${range}: use closer releases of passfd`
      this.#owner.onRefused(reason)
      throw new Error(reason)
    }
    this.#version = version
    this.#joined = true
    return { version, ...this.#owner.onJoin(join) }
  }
}

/** Other workers make sockets of them. Throws if some are not connections. */
function claimAll(connections: readonly Descriptor[]): Descriptor[] {
  const odd = connections.find(connection => !SOCKETS.includes(connection.kind))
  if (odd !== undefined) throw new Error(`an idle connection that is a ${odd.kind}`)
  return connections.map(connection => connection.claim())
}

/** Resolves when the channel of an ended process has ended, too. */
export async function lastWords(channel: Channel<any, any>): Promise<void> {
  // After a stall timers run before what waits is read
  const timer = setTimeout(() => setImmediate(() => channel.destroy()), LAST_WORDS)
  await channel.closed
  clearTimeout(timer)
}
