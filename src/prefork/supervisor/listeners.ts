/** The listeners of a supervisor: opened once, balanced over the workers that are ready, and closed when it stops. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { PassfdError } from '../../base/errors.ts'
import { throwLater } from '../../base/throw-later.ts'
import { activatedAs } from '../../descriptor/activated.ts'
import { Descriptor, own } from '../../descriptor/descriptor.ts'
import type { CheckedSpec } from '../../os/bind-spec.ts'
import { removeUnused } from '../../os/socket-name.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import { type ListenerSpec, MAX_LISTENERS } from '../../serving/specs.ts'
import type { Report } from '../../takeover/place.ts'
import { differences, hasMoved, isSame, listenAgain, type ServedSocket } from '../../takeover/served-socket.ts'
import type { Ending, Listener, ListenerEvents } from '../listen/listener.ts'
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
  /** Names of those that the service manager has given: its own names. */
  readonly #activated = new Map<string, string>()
  /** What programs have asked for: the names of listeners that are open, or are being opened. */
  readonly #wanted = new Map<string, Promise<string>>()
  /** Socket files of closed listeners. */
  readonly #files = new Set<string>()
  /** The listeners that are being closed while the supervisor runs. */
  readonly #closing = new Set<Promise<void>>()
  #events: ListenerEvents | undefined
  #closed = false
  #predecessor: Predecessor | undefined

  constructor(settings: Settings, workers: Workers) {
    this.#settings = settings
    this.#workers = workers
  }

  /**
   * Opens all listeners, and takes a predecessor's sockets where name and address are the same; the others stay in `sockets`. Resolves to reports
   * for the program. Rejects with the system's error; listeners that it has opened before stay open until `close()`.
   */
  async open(events: ListenerEvents, predecessor?: Predecessor): Promise<Report[]> {
    this.#events = events
    this.#predecessor = predecessor
    const reports: Report[] = []
    for (const [name, spec] of this.#settings.listeners) reports.push(...(await this.#openOne(name, spec)))
    return reports
  }

  async #openOne(name: string, spec: ListenerSpec): Promise<Report[]> {
    const { balance, takeover } = this.#settings
    const activated = spec instanceof Descriptor ? activatedAs(spec) : undefined
    if (activated !== undefined) this.#activated.set(name, activated)
    const predecessor = this.#predecessor
    const events = this.#events!
    const socket = predecessor?.sockets.get(name)
    if (socket !== undefined && isSame(spec, socket)) {
      const reports = differences(spec, socket, predecessor!.pid)
      this.#open.set(name, inheritListener(socket, spec, balance, events))
      this.#inherited.add(name)
      predecessor!.sockets.delete(name)
      if (spec instanceof Descriptor) spec.close() // it names the same socket
      const { backlog } = spec as { backlog?: number }
      this.#options.set(name, spec instanceof Descriptor ? socket.options : { ...socket.options, backlog })
      return reports
    }
    this.#open.set(name, await openListener(name, spec, balance, events, takeover !== undefined))
    this.#options.set(name, spec instanceof Descriptor ? { own: false } : { ...spec, own: true })
    return socket === undefined ? [] : [hasMoved(name, predecessor!.pid)]
  }

  /**
   * Returns the name of the listener with this address, which it opens at the first call. `nth`: of several with port 0. Rejects with the system's
   * error, or ERR_PASSFD_TOO_MANY_LISTENERS.
   */
  need(spec: CheckedSpec, nth: number): Promise<string> {
    if (this.#closed) return Promise.reject(new PassfdError('SUPERVISOR_STOPPED'))
    const declared = [...this.#settings.listeners].find(([name, one]) =>
      isSameAddress(one instanceof Descriptor ? this.#open.get(name)?.address() : one, spec)
    )
    if (declared !== undefined) return Promise.resolve(declared[0])
    const name = nameOf(spec, nth)
    let wanted = this.#wanted.get(name)
    if (wanted === undefined) {
      wanted = this.#openWanted(name, spec)
      this.#wanted.set(name, wanted)
      wanted.catch(() => this.#wanted.delete(name)) // the next one tries again
    } else if ('path' in spec && !existsSync(spec.path) && this.#open.has(name))
      process.emitWarning(new PassfdError('LISTENER_FILE', { path: spec.path }))
    return wanted
  }

  async #openWanted(name: string, spec: CheckedSpec): Promise<string> {
    if (this.#settings.listeners.size + this.#wanted.size >= MAX_LISTENERS)
      throw new PassfdError('TOO_MANY_LISTENERS', { limit: MAX_LISTENERS })
    await this.#openOne(name, spec)
    const listener = this.#open.get(name)!
    if (this.#closed) {
      this.#open.delete(name)
      await this.#closeOne(name, listener, { exclusive: false, served: false, give: () => {} })
      throw new PassfdError('SUPERVISOR_STOPPED')
    }
    return name
  }

  /** Returns the sockets from the service manager under its names, for a successor. The listeners still own them. */
  activated(): { name: string; fd: number }[] {
    return [...this.#activated].flatMap(([name, as]) => {
      const [socket] = this.#open.get(name)?.sockets() ?? []
      return socket === undefined ? [] : [{ name: as, fd: socket.borrow() }]
    })
  }

  /** Resolves when no listener is being closed any more, and so keeps its address busy. Returns whether there was one. */
  async settle(): Promise<boolean> {
    if (this.#closing.size === 0) return false
    await Promise.all(this.#closing)
    return true
  }

  /**
   * Closes listeners that programs have asked for and of which `isUsed` is false. Waiting connections are accepted and closed. `copies`: it only closes
   * this process's copies, as a program does that closes its server; another process that has a copy goes on accepting. Returns their names with
   * their addresses.
   */
  async closeUnused(
    isUsed: (name: string) => boolean,
    { copies = false }: { copies?: boolean } = {}
  ): Promise<[name: string, address: ListenAddress][]> {
    const unused: [string, ListenAddress][] = []
    const closing: Promise<void>[] = []
    for (const name of [...this.#wanted.keys()]) {
      const listener = this.#open.get(name)
      if (listener === undefined || isUsed(name)) continue
      unused.push([name, listener.address()])
      this.#wanted.delete(name)
      this.#open.delete(name)
      const exclusive = !copies && this.#workers.isExclusive(name)
      const give = (connections: readonly number[]): void => {
        for (const connection of connections) own(connection).close()
      }
      const closed = this.#closeOne(name, listener, { exclusive, served: true, give })
      this.#closing.add(closed)
      closing.push(closed.then(() => void this.#closing.delete(closed)))
    }
    await Promise.all(closing)
    await this.removeFiles()
    return unused
  }

  /** Never rejects: the others are closed even if one can't be. */
  async #closeOne(name: string, listener: Listener, ending: Ending): Promise<void> {
    const { path } = this.#options.get(name)!
    if (this.#settings.takeover !== undefined && typeof path === 'string') this.#files.add(path)
    await listener.close(ending).catch(error => throwLater(error))
  }

  /** Removes the socket files of closed listeners that were kept for a successor. Call it when no worker has copies. Never rejects. */
  async removeFiles(): Promise<void> {
    const files = [...this.#files]
    this.#files.clear()
    await Promise.all(files.map(removeUnused))
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

  /** The files of those that have one, as absolute paths. */
  get paths(): string[] {
    return Object.values(this.addresses).flatMap(address =>
      'path' in address && !address.path.startsWith('@') ? resolve(address.path) : []
    )
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

  /** Returns the grant of one listener for the worker in `slot`. The caller closes it. Undefined: it was closed meanwhile. */
  grant(name: string, slot: number): ListenerGrant | undefined {
    return this.#open.get(name)?.grant(slot)
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
    this.#closed = true
    const all = [...this.#open]
    this.#open.clear()
    await Promise.all(
      all.map(([name, listener]) =>
        this.#closeOne(name, listener, {
          exclusive: mayEnd && this.#workers.isExclusive(name),
          served: this.#workers.isServed(name),
          give: connections => give(name, connections.map(own))
        })
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

/** The name of a listener that a program has asked for: it has no colon, which would end it in LISTEN_FDNAMES. */
function nameOf(spec: CheckedSpec, nth: number): string {
  if ('path' in spec) return readable(spec.path)
  const host = 'type' in spec ? spec.address : spec.host
  const port = spec.port === 0 ? `any port ${nth}` : `${spec.port}`
  const kind = 'type' in spec ? `${spec.type} ` : ''
  const only = 'ipv6Only' in spec && spec.ipv6Only === true ? ' ipv6Only' : ''
  return `${kind}${host === undefined ? '' : `${readable(host)} `}${port}${only}`
}

const MAX_NAME = 255

function readable(text: string): string {
  const name = text.replace(/[^\x20-\x39\x3b-\x7e]/gu, encodeURIComponent)
  return name.length <= MAX_NAME ? name : `${name.slice(0, 190)}#${createHash('sha256').update(name).digest('hex')}`
}

/** Whether a program's `listen()` means this listener of the supervisor's options. */
function isSameAddress(declared: CheckedSpec | ListenAddress | undefined, asked: CheckedSpec): boolean {
  if (declared === undefined) return false
  if ('family' in declared) return !('path' in asked) && !('type' in asked) && asked.port === declared.port
  if ('path' in declared || 'path' in asked)
    return 'path' in declared && 'path' in asked && resolve(declared.path) === resolve(asked.path)
  if ('type' in declared || 'type' in asked)
    return (
      'type' in declared &&
      'type' in asked &&
      declared.type === asked.type &&
      declared.port === asked.port &&
      declared.address === asked.address
    )
  return declared.port === asked.port && (declared.host === asked.host || isUnspecified(declared.host, asked.host))
}

/** Two ways to say every address. */
function isUnspecified(...hosts: readonly (string | undefined)[]): boolean {
  return hosts.every(host => host === undefined || host === '::' || host === '0.0.0.0')
}
