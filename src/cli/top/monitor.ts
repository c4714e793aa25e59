/** Follows the supervisor at an admin socket: its status once in an interval, its events, and whoever takes its place. */
import { EventEmitter } from 'node:events'
import { setTimeout as wait } from 'node:timers/promises'
import { connect } from '../../index.ts'
import type { AdminCommand, AdminEvent, AdminStatus } from '../../prefork/index.ts'
import type { AdminChannel } from '../admin-client.ts'
import { isSame, type Sample } from './view.ts'

interface MonitorEvents {
  sample: [Sample]
  event: [AdminEvent]
  /** Nobody answers. Emitted once until somebody does. */
  lost: [Error]
  /** Another supervisor answers than before. */
  replaced: [before: AdminStatus, now: AdminStatus]
}

/** For an answer that a supervisor gives at once, in ms. */
const ANSWER = 3000

export class Monitor extends EventEmitter<MonitorEvents> {
  readonly #path: string
  readonly #interval: number
  readonly #closing = new AbortController()
  #channel: AdminChannel | undefined
  #last: AdminStatus | undefined
  #isLost = false

  /** `channel`: one that is open, which this owns. */
  constructor(path: string, channel: AdminChannel | undefined, interval: number) {
    super()
    this.#path = path
    this.#channel = channel
    this.#interval = interval
  }

  /** Samples until `close()`, or until there are `most` of them. */
  async run(most = Infinity): Promise<void> {
    const { signal } = this.#closing
    if (this.#channel !== undefined) await this.#subscribe(this.#channel).catch(() => {})
    for (let count = 0; !signal.aborted; ) {
      const began = performance.now()
      const status = await this.#ask().catch((error: Error) => error)
      if (signal.aborted) return this.#leave() // it may have connected meanwhile
      if (status instanceof Error) this.#lost(status)
      else {
        this.#found(status)
        if (++count >= most) return
      }
      const rest = Math.max(0, this.#interval - (performance.now() - began))
      await wait(rest, undefined, { signal }).catch(() => {})
    }
  }

  #found(status: AdminStatus): void {
    const before = this.#last
    this.#last = status
    this.#isLost = false
    if (before !== undefined && !isSame(before, status)) this.emit('replaced', before, status)
    this.emit('sample', { status, at: performance.now(), time: Date.now() })
  }

  #lost(error: Error): void {
    this.#leave()
    if (!this.#isLost) this.emit('lost', error)
    this.#isLost = true
  }

  /** Resolves when the supervisor has done it. */
  async command(command: AdminCommand): Promise<void> {
    if (this.#channel === undefined) throw new Error('nobody answers')
    await this.#channel.request(command, { descriptors: 0, timeout: 0 })
  }

  close(): void {
    this.#closing.abort()
    this.#leave()
  }

  #leave(): void {
    this.#channel?.destroy()
    this.#channel = undefined
  }

  async #ask(): Promise<AdminStatus> {
    this.#channel ??= await this.#connect()
    const status = await statusOf(this.#channel)
    if (status.phase !== 'stopping' && status.phase !== 'stopped') return status
    // A superseded supervisor goes on in this channel, and its successor answers at the path
    const other = await this.#connect().catch(() => undefined)
    if (other === undefined) return status
    const answer = await statusOf(other).catch(() => status)
    if (isSame(answer, status) || this.#closing.signal.aborted) {
      other.destroy()
      return status
    }
    this.#leave()
    this.#channel = other
    return answer
  }

  async #connect(): Promise<AdminChannel> {
    const { signal } = this.#closing
    const channel = await connect<AdminEvent, AdminCommand>(this.#path, { handshakeTimeout: ANSWER, signal })
    try {
      await this.#subscribe(channel)
    } catch (error) {
      channel.destroy()
      throw error
    }
    return channel
  }

  async #subscribe(channel: AdminChannel): Promise<void> {
    channel.on('message', ({ value }) => {
      if (channel === this.#channel) this.emit('event', value)
    })
    await channel.request({ command: 'subscribe' }, { descriptors: 0, timeout: ANSWER })
  }
}

function statusOf(channel: AdminChannel): Promise<AdminStatus> {
  return channel.request({ command: 'status' }, { descriptors: 0, timeout: ANSWER }) as Promise<AdminStatus>
}
