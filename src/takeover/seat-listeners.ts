/** The listeners of a seat: those that its predecessor has offered, and those that it has bound itself. */
import { resolve } from 'node:path'
import { quiet, RESOLVED } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { type Kind, LISTENERS } from '../descriptor/kind.ts'
import { native } from '../os/native.ts'
import { removeFile, type SocketFile } from '../os/socket-name.ts'
import { addressOf, bind } from '../serving/bound-socket.ts'
import type { Lane, ListenerGrant } from '../serving/listener-grant.ts'
import type { ListenerSpec } from '../serving/specs.ts'
import type { Offered } from './messages.ts'
import type { Report } from './place.ts'

const BACKLOG = 511
const EVERY_ADDRESS: readonly unknown[] = [undefined, '::', '0.0.0.0']
const DATAGRAMS: readonly Kind[] = ['udp', 'unix-dgram']
/** What a Descriptor among the listeners may be. */
const KINDS: readonly Kind[] = [...LISTENERS, 'unix-seqpacket-listener', ...DATAGRAMS]

/** One listener with its lanes: members of a SO_REUSEPORT group, or the only one. */
export interface SeatListener {
  readonly name: string
  readonly kind: string
  /** How it was bound: the fields of its spec, `own`, and of a socket file `dev` and `ino`. */
  readonly options: Readonly<Record<string, unknown>>
  readonly lanes: readonly Lane[]
}

/** What a program asks for and a socket that is there already has differently. */
export interface Difference {
  readonly option: string
  readonly asked: unknown
  readonly actual: unknown
}

export class SeatListeners {
  /** What the seat serves. */
  readonly #taken = new Map<string, SeatListener>()
  /** What the predecessor has and this program has not asked for. */
  readonly #offered = new Map<string, SeatListener>()
  /** Files of sockets that were bound here. */
  readonly #files: SocketFile[] = []
  readonly #grants = new Map<string, ListenerGrant>()
  readonly #binding = new Map<string, Promise<unknown>>()

  /** By name, the first lane of each: see ServedListeners. */
  get grants(): ReadonlyMap<string, ListenerGrant> {
    return this.#grants
  }

  get lanes(): Lane[] {
    return [...this.#taken.values()].flatMap(({ lanes }) => lanes)
  }

  /** Names of the predecessor's listeners that were not taken; of one whose address has changed, too. */
  get left(): string[] {
    return [...this.#offered.keys()]
  }

  /** The Descriptors are moved in. */
  offer(offered: readonly Offered[]): void {
    for (const { name, lane, kind, options, listener } of offered) {
      const lanes = this.#offered.get(name)?.lanes ?? []
      const backlog = typeof options.backlog === 'number' ? options.backlog : undefined
      const one: Lane = { name, lane, listener, backlog, own: options.own === true }
      this.#offered.set(name, { name, kind, options, lanes: [...lanes, one] })
    }
  }

  /** All that the predecessor has is this program's. */
  takeAll(): void {
    for (const [name, listener] of this.#offered) this.#take(name, listener)
  }

  /** These are not this program's after all. */
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
   * The predecessor's listener of that name if its address is the same, else a new one. `spec`: a Descriptor is moved in. Resolves to what an old
   * one has differently, or to undefined for a new one.
   */
  bind(name: string, spec: ListenerSpec): Promise<readonly Difference[] | undefined> {
    const binding = (this.#binding.get(name) ?? RESOLVED).then(() => this.#bind(name, spec))
    this.#binding.set(name, quiet(binding))
    return binding
  }

  async #bind(name: string, spec: ListenerSpec): Promise<readonly Difference[] | undefined> {
    const there = this.#taken.get(name) ?? this.#offered.get(name)
    if (there !== undefined && isSame(spec, there)) {
      if (spec instanceof Descriptor) spec.close() // of the same socket
      const backlog = spec instanceof Descriptor ? there.lanes[0]!.backlog : backlogOf(spec)
      const differences = spec instanceof Descriptor ? [] : differencesOf(spec, there)
      this.#take(name, { ...there, lanes: there.lanes.map(lane => ({ ...lane, backlog })) })
      return differences
    }
    if (this.#taken.has(name)) throw new PassfdError('LISTENER_SERVED', { name })
    const { descriptor, own, backlog, file } = await bind(name, spec, KINDS)
    if (file !== undefined) this.#files.push(file)
    const options = { ...(spec instanceof Descriptor ? {} : spec), own, ...file }
    const { kind } = descriptor
    this.#take(name, { name, kind, options, lanes: [{ name, lane: 0, listener: descriptor, backlog, own }] })
    return undefined
  }

  /** The same, and resolves to what is to be reported of it. `pid`: the predecessor's. */
  async bindAndCompare(name: string, spec: ListenerSpec, pid: number | undefined): Promise<Report[]> {
    const before = this.#offered.has(name)
    const of = pid === undefined ? { name } : { pid, name }
    const differences = await this.bind(name, spec)
    if (differences === undefined)
      return before
        ? [{ code: 'address', message: `The listener ${name} has another address than that of process ${pid}.`, ...of }]
        : []
    return differences.map(({ option, asked, actual }) => ({
      code: 'options',
      message:
        option === 'backlog'
          ? `The socket of the listener ${name} has the backlog ${actual}; from the commit on it has ${asked}.`
          : `The socket of the listener ${name} keeps ${option} ${actual}; asked was ${asked}. Restart the service to change it.`,
      ...of
    }))
  }

  /** Listeners of the predecessor that this program neither serves nor drops. */
  undecided(dropped: readonly string[]): string[] {
    return this.left.filter(name => !this.#taken.has(name) && !dropped.includes(name))
  }

  #take(name: string, listener: SeatListener): void {
    // Under the same name the predecessor may have another address, which is left then
    if (this.#offered.get(name)?.lanes[0]?.listener === listener.lanes[0]!.listener) this.#offered.delete(name)
    this.#taken.set(name, listener)
    this.#grants.set(name, listener.lanes[0]!)
  }

  /** The successor closes its copies of what it does not serve. */
  closeLeft(): void {
    // After a succession that was given up they are closed already
    for (const { lanes } of this.#offered.values())
      for (const { listener } of lanes) if (!listener.closed) listener.close()
    this.#offered.clear()
  }

  /** Copies for a successor, which the caller owns. */
  copies(): Offered[] {
    const copies: Offered[] = []
    try {
      for (const { name, kind, options, lanes } of this.#taken.values())
        for (const { lane, listener, backlog } of lanes)
          copies.push({
            name,
            lane,
            kind,
            options: backlog === undefined ? options : { ...options, backlog },
            listener: listener.dup()
          })
      return copies
    } catch (error) {
      for (const { listener } of copies) listener.close()
      throw error
    }
  }

  /** From now on peers see this process's credentials, and the backlog is this program's. */
  listen(): void {
    for (const { kind, lanes } of this.#taken.values())
      if (!DATAGRAMS.includes(kind as Kind))
        for (const { listener, backlog = BACKLOG } of lanes) native.listen(listener.borrow(), backlog)
  }

  /** Closes the lanes that `grants` does not have: the servers have copies of their own. */
  closeFurther(): void {
    for (const { lanes } of this.#taken.values())
      for (const { listener } of lanes.slice(1)) if (!listener.closed) listener.close()
  }

  /** Closes all. `remove`: nobody else has the sockets that were bound here, so their files go, too. */
  async close(remove: boolean): Promise<void> {
    if (remove) await Promise.all(this.#files.map(file => removeFile(file)))
    this.closeLeft()
    for (const { listener } of this.lanes) if (!listener.closed) listener.close()
  }
}

function backlogOf(spec: Exclude<ListenerSpec, Descriptor>): number | undefined {
  return 'backlog' in spec ? spec.backlog : undefined
}

/** The socket is where the spec wants one. */
function isSame(spec: ListenerSpec, { options, lanes }: SeatListener): boolean {
  const fd = lanes[0]!.listener.borrow()
  const actual = addressOf(fd)
  if (spec instanceof Descriptor) {
    const given = addressOf(spec.borrow())
    const named = 'path' in given ? given.path !== '' : given.port !== 0
    return named && spec.kind === lanes[0]!.listener.kind && JSON.stringify(given) === JSON.stringify(actual)
  }
  if ('path' in spec) {
    const path = typeof options.path === 'string' ? options.path : 'path' in actual ? actual.path : ''
    return path !== '' && resolve(path) === resolve(spec.path)
  }
  if ('path' in actual) return false
  const isDatagram = lanes[0]!.listener.kind === 'udp'
  if ('type' in spec !== isDatagram) return false
  if ('type' in spec && spec.type !== (actual.family === 'IPv6' ? 'udp6' : 'udp4')) return false
  const host = 'type' in spec ? spec.address : spec.host
  const before = 'type' in spec ? options.address : options.host
  const samePlace =
    host === before ||
    host === actual.address ||
    (EVERY_ADDRESS.includes(host) && EVERY_ADDRESS.includes(actual.address))
  return samePlace && (spec.port === 0 || spec.port === actual.port)
}

function differencesOf(spec: Exclude<ListenerSpec, Descriptor>, { options, lanes }: SeatListener): Difference[] {
  const differences: Difference[] = []
  const compare = (option: string, asked: unknown, actual: unknown): void => {
    if (asked !== actual) differences.push({ option, asked, actual })
  }
  if (!('type' in spec)) compare('backlog', spec.backlog ?? BACKLOG, lanes[0]!.backlog ?? BACKLOG)
  if ('path' in spec) compare('mode', spec.mode, options.mode ?? spec.mode)
  else if (!('type' in spec)) compare('ipv6Only', spec.ipv6Only ?? false, options.ipv6Only ?? false)
  return differences
}
