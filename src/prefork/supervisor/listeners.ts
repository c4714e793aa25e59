/** The listeners of a supervisor: opened once, balanced over the workers that are ready, and closed when it stops. */
import { PassfdError } from '../../base/errors.ts'
import { throwLater } from '../../base/throw-later.ts'
import { Descriptor, own } from '../../descriptor/descriptor.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Report } from '../../takeover/place.ts'
import { differences, hasMoved, isSame, listenAgain, type ServedSocket } from '../../takeover/served-socket.ts'
import type { Listener, ListenerEvents } from '../listen/listener.ts'
import { inheritListener, openListener } from '../listen/open-listener.ts'
import type { Recipient } from '../listen/recipient.ts'
import type { Settings } from '../options.ts'
import type { Workers } from './workers.ts'

/** What a predecessor has offered. */
export interface Predecessor {
  readonly pid: number
  readonly sockets: Map<string, ServedSocket>
}

export class Listeners {
  readonly #settings: Settings
  readonly #workers: Workers
  readonly #open = new Map<string, Listener>()
  /** How they were bound, for a successor. */
  readonly #options = new Map<string, Record<string, unknown>>()
  /** Names of those that were a predecessor's. */
  readonly #inherited = new Set<string>()

  constructor(settings: Settings, workers: Workers) {
    this.#settings = settings
    this.#workers = workers
  }

  /**
   * Rejects with the system's error; those that were opened before stay so, until `close()`. `predecessor`: its sockets are taken where they are what
   * is asked for; the others stay in `sockets`. Resolves to what is to be reported of them.
   */
  async open(events: ListenerEvents, predecessor?: Predecessor): Promise<Report[]> {
    const { listeners, balance, takeover } = this.#settings
    const reports: Report[] = []
    for (const [name, spec] of listeners) {
      const socket = predecessor?.sockets.get(name)
      if (socket !== undefined && isSame(spec, socket)) {
        reports.push(...differences(spec, socket, predecessor!.pid))
        this.#open.set(name, inheritListener(socket, spec, balance, events))
        this.#inherited.add(name)
        predecessor!.sockets.delete(name)
        if (spec instanceof Descriptor) spec.close() // of the same socket
        const { backlog } = spec as { backlog?: number }
        this.#options.set(name, spec instanceof Descriptor ? socket.options : { ...socket.options, backlog })
        continue
      }
      if (socket !== undefined) reports.push(hasMoved(name, predecessor!.pid))
      this.#open.set(name, await openListener(name, spec, balance, events, takeover !== undefined))
      this.#options.set(name, spec instanceof Descriptor ? { own: false } : { ...spec, own: true })
    }
    return reports
  }

  /** What a successor is offered. The Descriptors are the listeners' own. */
  sockets(): ServedSocket[] {
    return [...this.#open].map(([name, listener]) => {
      const options = this.#options.get(name)!
      const own = options.own === true
      const backlog = options.backlog as number | undefined
      const sockets = listener.sockets()
      const lanes = sockets.map((socket, lane) => ({ name, lane, listener: socket, backlog, own }))
      return { name, kind: sockets[0]!.kind, options, lanes }
    })
  }

  /** From now on peers see this process's credentials, and the backlogs are this program's. */
  listen(): void {
    for (const socket of this.sockets()) listenAgain(socket)
  }

  /** The supervisor serves: see Listener. */
  begin(): void {
    for (const listener of this.#open.values()) listener.begin()
  }

  /** A candidate has copies of all sockets, or has no more. */
  offered(is: boolean): void {
    for (const listener of this.#open.values()) listener.offered(is)
  }

  /** The predecessor goes on: closes the copies of its sockets. */
  giveBack(): void {
    this.release(
      [...this.#open.keys()].filter(name => !this.#inherited.has(name)),
      (_name, connections) => {
        for (const connection of connections) connection.close()
      }
    )
  }

  /** Closes this process's copies of all but the listeners `alone`; another process goes on with the sockets. */
  release(alone: readonly string[], give: (name: string, connections: readonly Descriptor[]) => void): void {
    for (const [name, listener] of this.#open) {
      if (alone.includes(name)) continue
      this.#open.delete(name)
      listener.release(connections => give(name, connections.map(own)))
    }
  }

  get(name: string): Listener | undefined {
    return this.#open.get(name)
  }

  get names(): IterableIterator<string> {
    return this.#open.keys()
  }

  address(name: string): ListenAddress {
    const listener = this.#open.get(name)
    if (listener === undefined)
      throw new PassfdError('LISTENER_UNKNOWN', { name, names: [...this.#settings.listeners.keys()].join(', ') })
    return listener.address()
  }

  get addresses(): Record<string, ListenAddress> {
    return Object.fromEntries([...this.#open].map(([name, listener]) => [name, listener.address()]))
  }

  /** Closing what workers have been sent of them never waits. */
  get closeAtOnce(): boolean {
    return [...this.#open.values()].every(({ closesAtOnce }) => closesAtOnce)
  }

  /** What a worker that starts in `slot` gets, by name: the caller's to close. */
  grants(slot: number): Map<string, ListenerGrant> {
    const grants = new Map<string, ListenerGrant>()
    try {
      for (const [name, listener] of this.#open) grants.set(name, listener.grant(slot))
      return grants
    } catch (error) {
      closeGrants(grants)
      throw error
    }
  }

  /** `ready`: the workers that new connections go to. `slots`: how many workers there are to be. */
  balance(ready: readonly Recipient[], slots: number): void {
    for (const [name, listener] of this.#open)
      listener.balance(
        ready.filter(({ uses }) => uses.has(name)),
        slots
      )
  }

  /** A worker has taken all connections that it was sent. */
  workerIsFree(): void {
    for (const listener of this.#open.values()) listener.workerIsFree()
  }

  /**
   * Closes them all. `mayEnd`: those that no other program holds are ended for all, so that whoever waits gets to `give` and nobody is reset.
   * Never rejects.
   */
  async close(mayEnd: boolean, give: (name: string, connections: readonly Descriptor[]) => void): Promise<void> {
    const all = [...this.#open]
    this.#open.clear()
    await Promise.all(
      all.map(
        ([name, listener]) =>
          listener
            .close({
              exclusive: mayEnd && this.#workers.isExclusive(name),
              served: this.#workers.isServed(name),
              give: connections => give(name, connections.map(own))
            })
            .catch(error => throwLater(error)) // a file that can't be removed does not stop the rest
      )
    )
  }

  /** Closes the Descriptors among the specs: they were moved in, whatever has come of them. */
  closeGiven(): void {
    for (const spec of this.#settings.listeners.values()) if (spec instanceof Descriptor) spec[Symbol.dispose]()
  }
}

export function closeGrants(grants: ReadonlyMap<string, ListenerGrant>): void {
  for (const { listener } of grants.values()) listener[Symbol.dispose]()
}
