/** The control channel of one worker: the messages from it and to it. */
import type { PassfdError } from '../../base/errors.ts'
import { type Channel, sessionOf } from '../../channel/channel.ts'
import { pair, trustedPair } from '../../channel/connect.ts'
import type { Message } from '../../channel/message.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import {
  type Accepted,
  type Beat,
  type FromSupervisor,
  type FromWorker,
  type HandsOver,
  type Join,
  LEAST,
  MAX_UNCONFIRMED,
  NEWEST,
  TO_FIRST_WORKERS,
  type Uses,
  type Welcome
} from '../control/control.ts'

/** How long what a dead process has said is still read, in ms: its children may have its end of the channel. */
const LAST_WORDS = 1000

/** The owner of the worker's state. */
export interface LineOwner {
  /** Before what a message says is done: the worker lives. */
  onHeard(): void
  /** Its program has called joinSupervisor(): the answer. */
  onJoin(join: Join): Omit<Welcome, 'version'>
  onUses(uses: Uses): void
  /** Its program has called `handOver()` or `onInherit()`. */
  onHandsOver(how: HandsOver): void
  onReady(): void
  onBeat(beat: Beat): void
  /** So many connections that it was sent have closed. */
  onClosed(count: number): void
  /** It has accepted as many connections as it was told to. */
  onAccepted(accepted: Accepted): void
  /** It stops by itself: the answer is whether the supervisor has closed its listeners. */
  onStopping(): Promise<boolean>
  /** An exception that it is about to end by; undefined: its program has handled it. */
  onException(words: string | undefined): void
  /** It has no version of the protocol in common with the supervisor, and is told so. */
  onRefused(reason: string): void
  /** What it says can't be understood. */
  onNonsense(reason: string): void
  /** It has taken all connections that it was sent. */
  onAllTaken(): void
  /** Connections that it had not taken before its channel ended. They are the owner's now. */
  onReturned(name: string, connections: readonly Descriptor[]): void
  /** A message can't be sent to it, and its channel has not ended. */
  onBroken(error: unknown): void
  /** The channel has ended. */
  onEnd(error: Error | undefined): void
}

export class ControlLine {
  readonly #channel: Channel<FromWorker, FromSupervisor>
  readonly #owner: LineOwner
  #version = 1
  #joined = false

  private constructor(channel: Channel<FromWorker, FromSupervisor>, owner: LineOwner) {
    this.#channel = channel
    this.#owner = owner
    this.#hear()
  }

  /** A line, and the worker's end of it: the caller's to close. `closesAtOnce`: closing what the worker has taken never waits. */
  static open(closesAtOnce: boolean, owner: LineOwner): [ControlLine, Descriptor] {
    const pairUp = closesAtOnce ? trustedPair : pair
    const [channel, theirs] = pairUp<FromWorker, FromSupervisor>({ maxInFlight: 2 * MAX_UNCONFIRMED })
    return [new ControlLine(channel.unref(), owner), theirs]
  }

  /** Of the control protocol; 1 before it has joined. */
  get version(): number {
    return this.#version
  }

  /** The worker's program has called joinSupervisor(). */
  get joined(): boolean {
    return this.#joined
  }

  /** Connections on their way to it that it has not taken. */
  get unconfirmed(): number {
    return sessionOf(this.#channel).descriptorsOut
  }

  /** The Descriptors in it are moved in any case. Resolves when the worker has room for more. */
  async send(message: FromSupervisor): Promise<void> {
    if (this.#version < 2 && !TO_FIRST_WORKERS.includes(message.type)) return
    try {
      await this.#channel.send(message)
    } catch (error) {
      if ((error as PassfdError).code === 'ERR_PASSFD_CLOSED') return // they come back as 'returned'
      // Its channel has ended, and its exit is about to be told. What was in the message is not lost:
      if (message.type === 'connections')
        this.#owner.onReturned(
          message.name,
          message.connections.filter(one => !one.closed)
        )
      else if (message.type === 'lend') message.listener[Symbol.dispose]()
      else if (message.type === 'give' || message.type === 'inherit') message.end[Symbol.dispose]()
      else if ((error as PassfdError).code !== 'ERR_PASSFD_CHANNEL_CLOSED') this.#owner.onBroken(error)
    }
  }

  /** Resolves to true when the worker has answered; to false when it can't any more. */
  async request(message: FromSupervisor): Promise<boolean> {
    try {
      await this.#channel.request(message, { descriptors: 0, timeout: 0 })
      return true
    } catch {
      // Its channel has ended, and so does it
      if (message.type === 'give') message.end[Symbol.dispose]()
      return false
    }
  }

  /** Resolves when all is read that the worker had said; its process has ended. */
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
      this.#owner.onReturned(value.name, returned.descriptors)
    })
    channel.once('close', error => this.#owner.onEnd(error))
  }

  #onMessage({ value }: Message<FromWorker>): unknown {
    const owner = this.#owner
    owner.onHeard()
    // A worker of version 1 does not say that it has recovered, but whatever it says shows it
    if (this.#version < 2) owner.onException(undefined)
    switch (value?.type) {
      case 'join':
        return this.#welcome(value)
      case 'uses':
        return owner.onUses(value)
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
      case 'failed':
        return owner.onException(`it failed with ${value.name}: ${value.message}`)
      case 'recovered':
        return owner.onException(undefined)
      default: // of a newer version: see control.ts
    }
  }

  #welcome(join: Join): Welcome {
    const { version: least, newest = least } = join
    const version = Math.min(NEWEST, newest)
    if (!(version >= Math.max(LEAST, least))) {
      const reason = `the supervisor speaks versions ${LEAST} to ${NEWEST} of the control protocol, and the worker ${least} to ${newest}: use closer releases of passfd`
      this.#owner.onRefused(reason)
      throw new Error(reason)
    }
    this.#version = version
    this.#joined = true
    return { version, ...this.#owner.onJoin(join) }
  }
}

/** Resolves when the channel of a process that has ended has ended, too. */
export async function lastWords(channel: Channel<any, any>): Promise<void> {
  const timer = setTimeout(() => channel.destroy(), LAST_WORDS)
  await channel.closed
  clearTimeout(timer)
}
