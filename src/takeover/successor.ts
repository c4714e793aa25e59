/** The successor of a superseded process, which hears from that while it drains. */
import type { Channel } from '../channel/channel.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import type { Draining, Told } from './messages.ts'

/** How often a successor hears how many connections are left, at most, in ms. */
const LEFT_INTERVAL = 1000

/** What a draining owner says to its successor. */
export class Successor {
  readonly peer: Peer
  readonly #channel: Channel<unknown, Told>
  #last = 0
  #timer: NodeJS.Timeout | undefined
  #next: { connections: number; chain: Draining[] } | undefined

  constructor(channel: Channel<unknown, Told>) {
    this.#channel = channel
    this.peer = channel.peer
  }

  /** At most once a second; the newest counts. */
  left(connections: number, chain: Draining[]): void {
    this.#next = { connections, chain }
    const wait = this.#last + LEFT_INTERVAL - performance.now()
    if (wait <= 0) this.#tellLeft()
    else this.#timer ??= setTimeout(() => this.#tellLeft(), wait).unref()
  }

  /** Connections that this process has accepted and that none of its own servers takes. They are moved; they are closed if the successor has gone. */
  give(name: string, connections: Descriptor[]): void {
    this.#send({ do: 'connections', name, connections })
  }

  /** Connects a worker of the successor to one that gives its state. The Descriptor is moved; it is closed if the successor has gone. */
  worker(slot: number, end: Descriptor): void {
    this.#send({ do: 'worker', slot, end })
  }

  async end(): Promise<void> {
    if (this.#next !== undefined) this.#tellLeft()
    await this.#channel.close()
  }

  #tellLeft(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#last = performance.now()
    const { connections, chain } = this.#next!
    this.#next = undefined
    this.#send({ do: 'left', connections, chain })
  }

  #send(message: Told): void {
    try {
      void this.#channel.send(message).catch(() => {}) // it has gone
    } catch {
      if (message.do === 'connections') for (const one of message.connections) if (!one.closed) one.close()
      if (message.do === 'worker' && !message.end.closed) message.end.close()
    }
  }
}
