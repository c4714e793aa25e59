/** Both sides of a takeover between supervisors. The listeners with all their lanes, and the admin path, move to the successor. */
import { resolve } from 'node:path'
import { PassfdError } from '../../base/errors.ts'
import type { Descriptor } from '../../descriptor/descriptor.ts'
import type { Peer } from '../../descriptor/peer.ts'
import { removeUnused } from '../../os/socket-name.ts'
import type { ContainerInit } from '../../takeover/container-init.ts'
import type { Draining } from '../../takeover/messages.ts'
import type { TakeOverSettings } from '../../takeover/options.ts'
import { Place, type Report } from '../../takeover/place.ts'
import { ADMIN, copiesOf, grouped, listenAgain, type ServedSocket } from '../../takeover/served-socket.ts'
import { GivenState } from '../../takeover/state.ts'
import type { Listeners, Predecessor } from './listeners.ts'
import type { WorkerProcess } from './worker-process.ts'
import type { Workers } from './workers.ts'

/** What a takeover calls on its supervisor. */
export interface TakeoverOwner {
  /** The admin path and its listening socket, if there is one. */
  admin(): { readonly path: string; readonly socket: Descriptor | undefined } | undefined
  /** This supervisor now serves alone: it has superseded its predecessor, or a successor has failed. Its workers get lanes and connections. */
  onOwner(): void
  /** A successor serves. `alone`: the listeners that the successor does not serve. */
  supersede(successor: Peer, alone: readonly string[]): void
  /** Connections that the predecessor has accepted. The callee owns them. `slot`: they are idle, and its worker in that slot has served them. */
  take(name: string, connections: readonly Descriptor[], slot: number | undefined): void
  /** The predecessor's worker in `slot` gives its state over this socket end. The callee owns the end. */
  inherit(slot: number, end: Descriptor): void
  onDraining(processes: readonly Draining[]): void
  report(report: Report): void
}

/** `waiting`: for the offer. `booting`: the predecessor serves. `committing`: this one owns, and its workers are about to accept. */
type Phase = 'waiting' | 'booting' | 'committing' | 'owner' | 'over'

export class Takeover {
  readonly #settings: TakeOverSettings
  readonly #listeners: Listeners
  readonly #workers: Workers
  readonly #place: Place
  readonly #owner: TakeoverOwner
  readonly #abort = new AbortController()
  #phase: Phase = 'waiting'
  #predecessor: Predecessor | undefined
  #committing: Promise<void> | undefined
  /** A candidate may have copies of the listeners. */
  #offered = false
  #adminOfPredecessor: Descriptor | undefined
  #adminSocket: Descriptor | undefined

  constructor(settings: TakeOverSettings, listeners: Listeners, workers: Workers, owner: TakeoverOwner) {
    this.#settings = settings
    this.#listeners = listeners
    this.#workers = workers
    this.#owner = owner
    this.#place = new Place(settings, {
      names: () => [...listeners.names],
      copies: () => copiesOf([...listeners.sockets(), ...adminSocket(owner.admin())]),
      freeze: async () => new GivenState(undefined).parts,
      begun: () => this.#share(true),
      rollBack: ({ listens }) => {
        if (listens) {
          listeners.listen()
          for (const socket of adminSocket(owner.admin())) listenAgain(socket)
        }
        this.#share(false)
        owner.onOwner()
      },
      letGo: (successor, alone) => {
        this.#phase = 'over'
        owner.supersede(successor, alone)
      },
      onConnections: (name, connections, slot) => owner.take(name, connections, slot),
      onWorker: (slot, end) => owner.inherit(slot, end),
      onDraining: () => owner.onDraining(this.draining),
      connections: () => [...workers].reduce((sum, { connections }) => sum + connections, 0),
      report: report => owner.report(report)
    })
  }

  get draining(): readonly Draining[] {
    return this.#place.draining
  }

  /** The superseded processes that have not ended. */
  get remaining(): readonly number[] {
    return this.#place.remaining
  }

  /** Set if this process is PID 1: ends the process some time after it was superseded. */
  get init(): ContainerInit | undefined {
    return this.#place.init
  }

  get superseded(): boolean {
    return this.#place.successor !== undefined
  }

  /** It replaces another supervisor, or has. */
  get hasPredecessor(): boolean {
    return this.#place.succession !== undefined
  }

  /** New workers serve only after the message `go`. */
  get held(): boolean {
    return this.#phase === 'booting' && this.#place.succession !== undefined
  }

  /** Workers get no lanes and connections yet. */
  get waits(): boolean {
    return this.held || (this.#phase === 'committing' && this.#place.succession !== undefined)
  }

  /** Another supervisor may hold the listeners, too. */
  get shared(): boolean {
    return this.#offered || (this.#phase !== 'owner' && this.#place.succession !== undefined)
  }

  /** The predecessor's socket of the admin path. The caller may use it after the commit. */
  get adminSocket(): Descriptor | undefined {
    return this.#adminSocket
  }

  /**
   * Waits for its turn. Resolves to the predecessor's offer, or to undefined without a predecessor. `names`: of its listeners; undefined: known at
   * the commit. `admin`: it takes the predecessor's socket if that has the same path; a socket of another path is closed at the commit.
   */
  async take(names: readonly string[] | undefined, admin: string | undefined): Promise<Predecessor | undefined> {
    await this.#place.take(names && [...names, ADMIN], this.#abort.signal)
    if (this.#phase !== 'waiting') throw new PassfdError('SUPERVISOR_STOPPED')
    this.#phase = 'booting'
    const { succession } = this.#place
    if (succession === undefined) return undefined
    const sockets = grouped(succession.moveListeners())
    const socket = sockets.get(ADMIN)
    this.#adminOfPredecessor = socket?.lanes[0]?.listener
    if (admin !== undefined && socket !== undefined && isAt(admin, socket)) this.#adminSocket = this.#adminOfPredecessor
    sockets.delete(ADMIN)
    this.#predecessor = { pid: this.#place.predecessor!.pid, sockets }
    return this.#predecessor
  }

  /** Checks that each listener of the predecessor is either served or dropped. @throws ERR_PASSFD_TAKEOVER_LISTENERS */
  check(): void {
    const names = [...(this.#predecessor?.sockets.keys() ?? [])]
    const { drop } = this.#settings
    const isListed = (name: string): boolean => this.#listeners.get(name) !== undefined
    this.#place.checkDecided(names.filter(name => !isListed(name) && !drop.includes(name)))
  }

  /**
   * Commits: calls `accept`, which makes all workers accept and opens the admin path, and then lets the predecessor close its listeners. Rejects if
   * the predecessor has gone on meanwhile.
   */
  async commit(accept: () => Promise<void>): Promise<void> {
    const left = [...(this.#predecessor?.sockets.keys() ?? [])]
    if (left.length > 0) await this.#place.drop(left)
    this.#place.win()
    this.#phase = 'committing'
    const committing = this.#accept(accept)
    this.#committing = committing.catch(() => {})
    await committing
  }

  async #accept(accept: () => Promise<void>): Promise<void> {
    try {
      this.#listeners.listen()
      await accept()
      this.#place.mark()
    } catch (error) {
      // The predecessor goes on, and no process ends its listeners
      this.#phase = 'over'
      this.#giveBack()
      this.#place.fail()
      throw error
    }
    const serving = this.#place.serve()
    this.#phase = 'owner'
    this.#closeLeft()
    this.#listeners.begin()
    this.#share(false)
    this.#owner.onOwner()
    await serving
  }

  /** Closes the copies of the predecessor's sockets, because the predecessor goes on. */
  #giveBack(): void {
    this.#listeners.giveBack()
    this.#closeLeft()
  }

  /** Closes copies of the predecessor's listeners that this supervisor does not serve. */
  #closeLeft(): void {
    for (const { lanes } of this.#predecessor?.sockets.values() ?? [])
      for (const { listener } of lanes) listener.close()
    this.#predecessor?.sockets.clear()
    if (this.#adminOfPredecessor?.closed === false) this.#adminOfPredecessor.close()
  }

  #share(offered: boolean): void {
    this.#offered = offered
    this.#listeners.offered(offered)
    for (const worker of this.#workers) worker.tellShared(this.shared)
  }

  /**
   * Called before the supervisor stops. Resolves when an attempt of a successor has its outcome. Gives up a takeover of its own that has not
   * reached the commit: then it resolves to true, and the predecessor goes on.
   */
  async stop(): Promise<boolean> {
    this.#abort.abort()
    if (this.#phase === 'waiting' || this.#phase === 'booting') {
      const inherits = this.#place.succession !== undefined
      this.#phase = 'over'
      this.#giveBack()
      await this.#place.giveUp()
      return inherits
    }
    await this.#committing
    const failed = this.#phase === 'over' && !this.superseded
    await this.#place.stop()
    return failed
  }

  /** Sends connections to the successor that this superseded process accepted and that none of its workers takes. Moves them. */
  give(name: string, connections: readonly Descriptor[], slot: number | undefined): Promise<void> {
    return this.#place.give(name, [...connections], slot)
  }

  /** Makes a worker of this superseded supervisor give its state to a worker of the successor. Resolves when that is done, or has failed. */
  async giveState(worker: WorkerProcess): Promise<void> {
    if (!worker.gives || worker.state !== 'ready') return
    await worker.give(end => this.#place.giveWorker(worker.slot, end))
  }

  /** Called when an owner has stopped without a successor: removes the socket file of the takeover path. */
  async removePath(): Promise<void> {
    if (this.#phase === 'owner') await removeUnused(this.#settings.path)
  }

  leave(): Promise<void> {
    return this.#place.leave()
  }
}

function adminSocket(admin: ReturnType<TakeoverOwner['admin']>): ServedSocket[] {
  if (admin?.socket === undefined) return []
  const { path, socket } = admin
  const lane = { name: ADMIN, lane: 0, listener: socket, backlog: undefined, own: true }
  return [{ name: ADMIN, kind: socket.kind, options: { path, own: true }, lanes: [lane] }]
}

/** Whether the socket is bound to the path. A bound text that is relative means a path of the process that has bound it. */
function isAt(path: string, { options }: ServedSocket): boolean {
  return options.path === undefined || resolve(String(options.path)) === resolve(path)
}
