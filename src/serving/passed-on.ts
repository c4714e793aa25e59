/** The idle connections of a process that stops, on their way to another process. */
import { deferred } from '../base/deferred.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { type Descriptor, own } from '../descriptor/descriptor.ts'

/** Resolves when there is room for more. Moves the Descriptors, or the caller closes them if it rejects. */
export type SendIdle = (name: string, connections: Descriptor[]) => Promise<void>

interface Queue {
  readonly name: string
  readonly connections: Descriptor[]
}

export class PassedOn {
  readonly #send: SendIdle
  readonly #queues: Queue[] = []
  #sending = false
  #done = deferred()
  /** Nobody takes them any more. */
  #ended = false

  constructor(send: SendIdle) {
    this.#send = send
    this.#done.resolve()
  }

  /** Resolves when all that it has taken are sent. */
  get done(): Promise<void> {
    return this.#done.promise
  }

  /** Takes a connection of the listener `name`, which it then owns: see PassOn. */
  add(name: string, connection: number): boolean | 'later' {
    if (this.#ended) return false
    let queue = this.#queues.find(one => one.name === name)
    if (queue === undefined) {
      queue = { name, connections: [] }
      this.#queues.push(queue)
    }
    if (queue.connections.length >= MAX_RIGHTS) return 'later'
    queue.connections.push(own(connection))
    if (!this.#sending) this.#begin()
    return true
  }

  #begin(): void {
    this.#sending = true
    this.#done = deferred()
    // Others that are idle in the same turn go in the same message
    queueMicrotask(() => void this.#run())
  }

  async #run(): Promise<void> {
    for (let queue = this.#queues.shift(); queue !== undefined; queue = this.#queues.shift()) {
      const { name, connections } = queue
      try {
        if (!this.#ended) await this.#send(name, connections)
      } catch {
        this.#ended = true
      }
      // Without their taker they are idle connections whose time is over
      for (const connection of connections) connection[Symbol.dispose]()
    }
    this.#sending = false
    this.#done.resolve()
  }
}
