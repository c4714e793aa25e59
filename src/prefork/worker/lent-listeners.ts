/** The listeners that a worker was lent, by name, and the server of the program that serves each of them. */
import type { Server } from 'node:net'
import { PassfdError } from '../../base/errors.ts'
import { throwLater } from '../../base/throw-later.ts'
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import { acceptUpTo, acceptWaiting } from '../../os/acceptor.ts'
import type { AcceptSource } from '../../serving/accept-sources.ts'
import { type ConnectionHandler, DescriptorIntake } from '../../serving/descriptor-intake.ts'
import type { Intake } from '../../serving/intake.ts'
import { endListeners } from '../../serving/last-accept.ts'
import { ServerIntake } from '../../serving/server-intake.ts'
import type { Lend, ListenerGrant } from '../control/control.ts'
import type { WorkerOrigin } from './worker-origin.ts'

interface ServedListener {
  readonly served: Intake
  /** By number: the listeners it was lent beyond its own. */
  readonly lanes: Map<number, Promise<AcceptSource>>
}

export class LentListeners {
  readonly #origin: WorkerOrigin
  readonly #servers = new Map<Server, ServerIntake>()
  readonly #receivers: DescriptorIntake[] = []
  readonly #serving = new Map<string, ServedListener>()
  /** Listeners that the program itself got: it may have passed them on, so other programs may hold them. */
  readonly #exposed = new Set<string>()
  #stopping = false
  #cutOff = false
  #orphan = false

  constructor(origin: WorkerOrigin) {
    this.#origin = origin
  }

  /** All that serve. */
  get intakes(): Intake[] {
    return [...this.#servers.values(), ...this.#receivers]
  }

  /** @throws ERR_PASSFD_LISTENER_UNKNOWN */
  get(name: string): ListenerGrant {
    const lent = this.#origin.listeners.get(name)
    if (lent === undefined)
      throw new PassfdError('LISTENER_UNKNOWN', { name, names: [...this.#origin.listeners.keys()].join(', ') })
    return lent
  }

  async serve(name: string, server: Server): Promise<void> {
    await this.#serve(name, 'listen()', () => this.#servedBy(server))
  }

  async receive(name: string, handler: ConnectionHandler): Promise<void> {
    await this.#serve(name, 'receive()', () => {
      const receiver = new DescriptorIntake(handler)
      this.#receivers.push(receiver)
      return receiver
    })
  }

  async #serve(name: string, operation: string, serving: () => Intake): Promise<void> {
    const lent = this.get(name)
    if (this.#serving.has(name)) throw new PassfdError('LISTENER_SERVED', { name })
    if (lent.listener.kind === 'udp')
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation,
        expected: 'tcp-listener, unix-stream-listener',
        actual: 'udp (use descriptor(name).toDatagram())'
      })
    const served = serving()
    this.#serving.set(name, { served, lanes: new Map() })
    let copy: Descriptor | undefined
    try {
      if ('dispatched' in lent || hasEnded(lent.listener, lent.own)) served.prepare()
      else {
        copy = lent.listener.dup()
        await served.add(copy, lent.backlog, () => this.#isOwn(name))
      }
    } catch (error) {
      copy?.[Symbol.dispose]()
      this.#serving.delete(name) // for another server
      throw error
    }
    if (!this.#stopping) this.#origin.uses(name, { adopts: true, exposed: this.#exposed.has(name) })
  }

  /** A copy for the program, which may pass it on. */
  expose(name: string): Descriptor {
    const lent = this.get(name)
    if ('dispatched' in lent) throw new PassfdError('LISTENER_DISPATCHED', { name })
    const descriptor = lent.listener.dup()
    this.#exposed.add(name)
    this.#origin.uses(name, { adopts: this.#serving.has(name), exposed: true })
    return descriptor
  }

  /** More of a listener, until it is taken back. */
  lend({ name, lane, listener, backlog, own }: Lend): void {
    const serving = this.#serving.get(name)
    const wanted = serving !== undefined && !this.#stopping && !serving.lanes.has(lane)
    if (!wanted || hasEnded(listener, own)) {
      listener.close()
      return
    }
    serving.lanes.set(
      lane,
      serving.served.add(listener.claim(), backlog, () => this.#isOwn(name))
    )
  }

  takeBack(name: string, lane: number): void {
    const lanes = this.#serving.get(name)?.lanes
    const lent = lanes?.get(lane)
    lanes?.delete(lane)
    void lent?.then(one => one.remove())
  }

  /** Accepts up to `count` connections that wait, to be given to `give`. `error`: what has kept it from accepting more (-errno). */
  accept(name: string, count: number): { connections: Descriptor[]; error: number } {
    const connections: Descriptor[] = []
    const lent = this.#origin.listeners.get(name)
    // After it has stopped, other workers accept the waiting connections
    if (this.#stopping || lent === undefined || !this.#serving.has(name)) return { connections, error: 0 }
    const error = acceptUpTo(lent.listener.borrow(), count, connection => void connections.push(own(connection)))
    return { connections, error }
  }

  /** What the program throws when it is given one, by a 'drop' listener for example, keeps no other from being served. */
  give(name: string, connections: readonly Descriptor[]): void {
    const served = this.#serving.get(name)?.served
    for (const connection of connections) {
      if (served === undefined || this.#cutOff) {
        connection.close()
        this.#origin.onClosed?.()
        continue
      }
      try {
        served.give(connection, this.#origin.onClosed)
      } catch (error) {
        connection[Symbol.dispose]()
        throwLater(error)
      }
    }
  }

  // --- their end

  /** The supervisor's process has ended. */
  becomeOrphan(): void {
    this.#orphan = true
  }

  /** From now on none is lent, served or accepted from. */
  beginStop(): void {
    this.#stopping = true
  }

  /** From now on connections that come are closed. */
  cutOff(): void {
    this.#cutOff = true
  }

  /** Stops accepting, and resolves when all are closed. `last`: this worker serves the connections that wait in the queues. */
  async end(last: boolean | Promise<boolean>): Promise<void> {
    const stopped = this.intakes.map(served => served.stopAccepting({ last }))
    this.#close(lent => !('dispatched' in lent)) // the servers have copies, and theirs must be the last ones
    await Promise.all(stopped)
    if (await last) await this.#acceptDispatched()
    this.#close(() => true)
  }

  /** No other process accepts from them any more. */
  async #acceptDispatched(): Promise<void> {
    const dispatched = [...this.#origin.listeners].filter(([, lent]) => 'dispatched' in lent)
    await Promise.all(
      dispatched.map(async ([name, { listener }]) => {
        const give = (connection: number): void => this.give(name, [own(connection)])
        const fd = listener.borrow()
        if (this.#isOwn(name)) await endListeners([fd], () => acceptWaiting(fd, give))
        const waiting: number[] = []
        acceptWaiting(fd, connection => void waiting.push(connection))
        listener.close()
        waiting.forEach(give)
      })
    )
  }

  #close(which: (lent: ListenerGrant) => boolean): void {
    for (const lent of this.#origin.listeners.values()) if (which(lent) && !lent.listener.closed) lent.listener.close()
  }

  /** It is this process's to end for all that hold it: the supervisor is gone, or there is none, and no other program holds it. */
  #isOwn(name: string): boolean {
    if (this.#origin.supervised && !this.#orphan) return false
    return this.#origin.listeners.get(name)?.own === true && !this.#exposed.has(name)
  }

  #servedBy(server: Server): ServerIntake {
    let served = this.#servers.get(server)
    if (served === undefined) {
      served = new ServerIntake(server)
      this.#servers.set(server, served)
    }
    return served
  }
}

/** The supervisor stops, and has shut it down: a TCP socket is no listener any more. */
function hasEnded(listener: Descriptor, own: boolean): boolean {
  return own && listener.kind === 'tcp'
}
