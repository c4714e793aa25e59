/** The successor, as a superseded process sees it while it drains. */
import type { Channel } from '../channel/channel.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import type { Draining, Told } from './messages.ts'

/** The shortest interval of reports about remaining connections, in ms. */
const LEFT_INTERVAL = 1000

/** The messages of a draining owner to its successor. */
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

  /** Reports the newest numbers, at most once a second. */
  left(connections: number, chain: Draining[]): void {
    this.#next = { connections, chain }
    const wait = this.#last + LEFT_INTERVAL - performance.now()
    if (wait <= 0) this.#tellLeft()
    else this.#timer ??= setTimeout(() => this.#tellLeft(), wait).unref()
  }

  /**
   * Sends connections that this process accepted and that none of its servers takes. Moves them, or closes them if the successor has ended. Resolves
   * when there is room for more. `slot`: of the worker that has served them, and they are idle.
   */
  give(name: string, connections: Descriptor[], slot?: number): Promise<void> {
    return this.#send({ do: 'connections', name, connections, ...(slot !== undefined && { slot }) })
  }

  /** Connects a worker of the successor to one that gives its state. Moves the Descriptor, or closes it if the successor has ended. */
  worker(slot: number, end: Descriptor): void {
    void this.#send({ do: 'worker', slot, end })
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
    void this.#send({ do: 'left', connections, chain })
  }

  async #send(message: Told): Promise<void> {
    try {
      await this.#channel.send(message)
    } catch {
      // It has gone
      if (message.do === 'connections') for (const one of message.connections) if (!one.closed) one.close()
      if (message.do === 'worker' && !message.end.closed) message.end.close()
    }
  }
}
