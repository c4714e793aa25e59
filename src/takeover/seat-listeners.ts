/** The listeners of a seat: those of its predecessor, and those that it has bound itself. */
import { quiet, RESOLVED } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { type Kind, LISTENERS } from '../descriptor/kind.ts'
import { removeOrWarn, type SocketFile } from '../os/socket-name.ts'
import { bind } from '../serving/bound-socket.ts'
import type { Lane, ListenerGrant } from '../serving/listener-grant.ts'
import type { ListenerSpec } from '../serving/specs.ts'
import type { Offered } from './messages.ts'
import type { Report } from './place.ts'
import {
  ADMIN,
  copiesOf,
  DATAGRAMS,
  differences,
  grouped,
  hasMoved,
  isSame,
  listenAgain,
  type ServedSocket
} from './served-socket.ts'

/** What a Descriptor among the listeners may be. */
const KINDS: readonly Kind[] = [...LISTENERS, 'unix-seqpacket-listener', ...DATAGRAMS]

export class SeatListeners {
  /** The listeners that the seat serves. */
  readonly #taken = new Map<string, ServedSocket>()
  /** The predecessor's listeners that this program has not asked for. */
  readonly #offered = new Map<string, ServedSocket>()
  /** Files of sockets that were bound here. */
  readonly #files: SocketFile[] = []
  readonly #grants = new Map<string, ListenerGrant>()
  readonly #binding = new Map<string, Promise<unknown>>()
  #pid = 0

  /** By name, the first lane of each: see ServedListeners. */
  get grants(): ReadonlyMap<string, ListenerGrant> {
    return this.#grants
  }

  get lanes(): Lane[] {
    return [...this.#taken.values()].flatMap(({ lanes }) => lanes)
  }

  /** Names of the predecessor's listeners that were not taken, also of those with another address. */
  get left(): string[] {
    return [...this.#offered.keys()]
  }

  /** The Descriptors are moved in. `pid`: the predecessor's. */
  offer(offered: readonly Offered[], pid: number): void {
    this.#pid = pid
    for (const [name, socket] of grouped(offered)) this.#offered.set(name, socket)
  }

  /** Takes all listeners of the predecessor. */
  takeAll(): void {
    for (const [name, socket] of this.#offered) if (name !== ADMIN) this.#take(name, socket)
  }

  /** Gives these listeners back to the rest. */
  leave(names: readonly string[]): void {
    for (const name of names) {
      const listener = this.#taken.get(name)
      if (listener === undefined || this.#offered.has(name)) continue
      this.#taken.delete(name)
      this.#grants.delete(name)
      this.#offered.set(name, listener)
    }
  }

  /**
   * The predecessor's listener of that name if its address is the same, else a new one. `spec`: a Descriptor is moved in. Resolves to what is to be
   * reported of an old one. Rejects with the system's error.
   */
  bind(name: string, spec: ListenerSpec): Promise<readonly Report[]> {
    const binding = (this.#binding.get(name) ?? RESOLVED).then(() => this.#bind(name, spec))
    this.#binding.set(name, quiet(binding))
    return binding
  }

  async #bind(name: string, spec: ListenerSpec): Promise<readonly Report[]> {
    const before = this.#offered.get(name)
    const there = this.#taken.get(name) ?? before
    if (there !== undefined && isSame(spec, there)) {
      if (spec instanceof Descriptor) spec.close() // of the same socket
      const backlog = spec instanceof Descriptor ? there.lanes[0]!.backlog : backlogOf(spec)
      this.#take(name, { ...there, lanes: there.lanes.map(lane => ({ ...lane, backlog })) })
      return before === undefined ? [] : differences(spec, there, this.#pid)
    }
    if (this.#taken.has(name)) {
      if (spec instanceof Descriptor) spec.close()
      throw new PassfdError('LISTENER_SERVED', { name })
    }
    const { descriptor, own, backlog, file } = await bind(name, spec, KINDS)
    if (file !== undefined) this.#files.push(file)
    const options = { ...(spec instanceof Descriptor ? {} : spec), own, ...file }
    const { kind } = descriptor
    this.#take(name, { name, kind, options, lanes: [{ name, lane: 0, listener: descriptor, backlog, own }] })
    return before === undefined ? [] : [hasMoved(name, this.#pid)]
  }

  /** Listeners of the predecessor that this program neither serves nor drops. */
  undecided(dropped: readonly string[]): string[] {
    return this.left.filter(name => name !== ADMIN && !this.#taken.has(name) && !dropped.includes(name))
  }

  #take(name: string, socket: ServedSocket): void {
    // The predecessor's listener of the same name may have another address. Then it is not taken
    if (this.#offered.get(name)?.lanes[0]?.listener === socket.lanes[0]!.listener) this.#offered.delete(name)
    this.#taken.set(name, socket)
    this.#grants.set(name, socket.lanes[0]!)
  }

  /** Closes the copies of listeners that this process does not serve. */
  closeLeft(): void {
    // They are closed already if the succession was given up
    for (const { lanes } of this.#offered.values())
      for (const { listener } of lanes) if (!listener.closed) listener.close()
    this.#offered.clear()
  }

  /** Copies for a successor, which the caller owns. */
  copies(): Offered[] {
    return copiesOf(this.#taken.values())
  }

  /** From now on peers see this process's credentials, and the backlogs are this program's. */
  listen(): void {
    for (const socket of this.#taken.values()) listenAgain(socket)
  }

  /** Closes the lanes that `grants` does not have: the servers have copies of their own. */
  closeFurther(): void {
    for (const { lanes } of this.#taken.values())
      for (const { listener } of lanes.slice(1)) if (!listener.closed) listener.close()
  }

  /** Closes all. `remove`: no other process has the sockets that were bound here, so it removes their files, too. */
  async close(remove: boolean): Promise<void> {
    if (remove) await Promise.all(this.#files.map(removeOrWarn))
    this.closeLeft()
    for (const { listener } of this.lanes) if (!listener.closed) listener.close()
  }
}

function backlogOf(spec: Exclude<ListenerSpec, Descriptor>): number | undefined {
  return 'backlog' in spec ? spec.backlog : undefined
}
