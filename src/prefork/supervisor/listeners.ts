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

/** The offer of a predecessor. */
export interface Predecessor {
  readonly pid: number
  readonly sockets: Map<string, ServedSocket>
}

export class Listeners {
  readonly #settings: Settings
  readonly #workers: Workers
  readonly #open = new Map<string, Listener>()
  /** How each was bound, for a successor. */
  readonly #options = new Map<string, Record<string, unknown>>()
  /** The names of listeners that came from a predecessor. */
  readonly #inherited = new Set<string>()

  constructor(settings: Settings, workers: Workers) {
    this.#settings = settings
    this.#workers = workers
  }

  /**
   * Opens all listeners, and takes a predecessor's sockets where name and address are the same; the others stay in `sockets`. Resolves to reports
   * for the program. Rejects with the system's error; listeners that it has opened before stay open until `close()`.
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
        if (spec instanceof Descriptor) spec.close() // it names the same socket
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

  /** Returns the offer for a successor. The listeners still own the Descriptors. */
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

  /** Calls listen(2) again: from then on clients see this process's credentials, and this program's backlogs apply. */
  listen(): void {
    for (const socket of this.sockets()) listenAgain(socket)
  }

  /** Called when this supervisor alone serves: see Listener. */
  begin(): void {
    for (const listener of this.#open.values()) listener.begin()
  }

  /** Notes whether a candidate has copies of all sockets. */
  offered(is: boolean): void {
    for (const listener of this.#open.values()) listener.offered(is)
  }

  /** Closes the copies of the predecessor's sockets, because the predecessor goes on. */
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

  /** Closing copies of connections that were sent to workers never blocks. */
  get closeAtOnce(): boolean {
    return [...this.#open.values()].every(({ closesAtOnce }) => closesAtOnce)
  }

  /** Returns the grants for a worker that starts in `slot`, by name. The caller closes them. */
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

  /** `ready`: the workers that get new connections. `slots`: the wanted number of workers. */
  balance(ready: readonly Recipient[], slots: number): void {
    for (const [name, listener] of this.#open)
      listener.balance(
        ready.filter(({ uses }) => uses.has(name)),
        slots
      )
  }

  /** Called when a worker has taken all connections that it was sent. */
  workerIsFree(): void {
    for (const listener of this.#open.values()) listener.workerIsFree()
  }

  /**
   * Closes all of them. `mayEnd`: it ends listeners that no other program holds, and `give` gets their waiting connections, so that none is reset.
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
            .catch(error => throwLater(error)) // the others are closed even if a file can't be removed
      )
    )
  }

  /** Closes the Descriptors among the specs that were not used: they were moved in. */
  closeGiven(): void {
    for (const spec of this.#settings.listeners.values()) if (spec instanceof Descriptor) spec[Symbol.dispose]()
  }
}

export function closeGrants(grants: ReadonlyMap<string, ListenerGrant>): void {
  for (const { listener } of grants.values()) listener[Symbol.dispose]()
}
