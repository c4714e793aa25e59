/**
 * A process's place at a takeover path: as the candidate that waits for its turn, as the owner, and as the superseded one that tells its successor
 * how many connections are left. What the process serves is its user's business: a Seat's, or a Supervisor's.
 */
import { setTimeout as later } from 'node:timers/promises'
import { deferred } from '../base/deferred.ts'
import { asError, PassfdError } from '../base/errors.ts'
import { closeOffLoop, type Descriptor, own } from '../descriptor/descriptor.ts'
import type { Peer } from '../descriptor/peer.ts'
import { listenOn, removeOrWarn, type SocketFile } from '../os/socket-name.ts'
import { apply } from './apply.ts'
import { ContainerInit } from './container-init.ts'
import { Drainers } from './drainers.ts'
import { type Draining, type Offered, type Program, type StatePart, thisProgram } from './messages.ts'
import type { PlaceSettings } from './options.ts'
import { BACKLOG, type FreezeContext, Owner } from './owner.ts'
import { Life } from './pipes.ts'
import type { Succession } from './succession.ts'
import type { Successor } from './successor.ts'

/** How often a superseded process counts its remaining connections, in ms. */
const LOOK = 1000

/**
 * How often it binds a path that is in use and refuses connections: that of a process that is just starting or ending, or a file that can't be proved
 * dead, because its directory can't be read.
 */
const BINDS = 10
/** The time to the next try, in ms. */
const BIND_PAUSE = 10

/** The reports of a place. Without a listener each is a process warning. */
export interface Report {
  readonly code:
    | 'address' // under a known name this program listens elsewhere
    | 'options' // a socket differs from what was asked
    | 'dropped' // the successor does not serve a listener; it is closed
    | 'unserved' // a listener without a server
    | 'silent' // the successor has committed and does not serve yet
    | 'failed' // the successor gets no state
    | 'stateLost' // the predecessor has died with its state
    | 'thaw' // `thaw` has failed, and the state was closed
    | 'path' // the takeover path can't be served
    | 'upgrade' // the successor that USR2 has started has ended before it served
  readonly message: string
  /** The other process. */
  readonly pid?: number
  readonly name?: string
}

/** What a place calls on its process. */
export interface PlaceHooks {
  /** Names of all listeners. */
  names(): string[]
  /** Returns copies of every lane of every listener, which the caller owns. */
  copies(): Offered[]
  /** See OwnerHooks. */
  freeze(context: FreezeContext): Promise<readonly StatePart[]>
  /** An attempt begins: from now on another process may hold the listeners. */
  begun?(): void
  rollBack(how: { frozen: boolean; listens: boolean }): void
  /** A successor serves. `alone`: the listeners that the successor does not serve. */
  letGo(successor: Peer, alone: readonly string[]): void
  /** Connections that the predecessor accepted and that none of its servers takes. The callee owns them. `slot`: see PredecessorListener. */
  onConnections(name: string, connections: readonly Descriptor[], slot: number | undefined): void
  /** A supervisor's worker in `slot` gives its state over this socketpair. The callee owns the end. Undefined: this process takes no such state. */
  onWorker?(slot: number, end: Descriptor): void
  /** The draining predecessors, or their numbers of connections, have changed. */
  onDraining(): void
  /** Returns the number of open connections of this process. */
  connections(): number
  report(report: Report): void
}

export class Place {
  readonly #settings: PlaceSettings
  readonly #hooks: PlaceHooks
  readonly #program: Program
  readonly #drainers: Drainers
  readonly #left = deferred()
  #succession: Succession | undefined
  #path: Descriptor | undefined
  #file: SocketFile | undefined
  #life: Life | undefined
  /** The socket with which the owner will listen. */
  #listening: Descriptor | undefined
  #owner: Owner | undefined
  #alone: readonly string[] = []
  #successor: Successor | undefined
  #givenUp = false
  /** The superseded predecessor, until its channel ends. */
  #followed: number | undefined
  #init: ContainerInit | undefined

  constructor(settings: PlaceSettings, hooks: PlaceHooks) {
    this.#settings = settings
    this.#hooks = hooks
    this.#program = thisProgram()
    this.#drainers = new Drainers(() => hooks.onDraining())
  }

  get succession(): Succession | undefined {
    return this.#succession
  }

  get predecessor(): Peer | undefined {
    return this.#succession?.predecessor
  }

  /** Undefined: this process was not superseded. */
  get successor(): Peer | undefined {
    return this.#successor?.peer
  }

  /** Set if this process is PID 1: decides when it ends after it was superseded. */
  get init(): ContainerInit | undefined {
    return this.#init
  }

  /** The superseded processes that still have connections, with their last reported numbers. */
  get draining(): readonly Draining[] {
    return this.#drainers.list
  }

  /** The superseded processes that have not ended. A predecessor that has reported nothing yet is one of them. */
  get remaining(): readonly number[] {
    const pids = this.draining.map(({ pid }) => pid)
    return this.#followed === undefined ? pids : [...new Set([this.#followed, ...pids])]
  }

  /**
   * Waits for its turn, or binds the path if nobody is there. Resolves to what the predecessor offers: the caller's. `wants`: the names that this
   * process serves; undefined: not known yet. Rejects as `apply()`, or with the system's error of bind(2).
   */
  async take(wants: readonly string[] | undefined, signal: AbortSignal | undefined): Promise<readonly Offered[]> {
    const { path, authorize } = this.#settings
    for (let attempt = 1; ; attempt++) {
      this.#succession = await apply({ path, program: this.#program, wants, limits: this.#settings, authorize, signal })
      const found = this.#succession !== undefined || (await this.#bind(attempt < BINDS))
      if (this.#givenUp) {
        await this.giveUp()
        throw new PassfdError('TAKEOVER_BEGUN', { operation: 'a takeover', why: 'this process stops' })
      }
      if (found) return this.#succession?.listeners ?? []
      await later(BIND_PAUSE)
    }
  }

  /** Returns false if another process has taken the path meanwhile. Then the caller tries again. */
  async #bind(again: boolean): Promise<boolean> {
    const { path, access } = this.#settings
    try {
      const { fd, file } = await listenOn({ path }, access, BACKLOG)
      this.#path = own(fd)
      this.#file = file
      return true
    } catch (error) {
      if (!again || (error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
      return false
    }
  }

  /** Informs the predecessor, before the commit, which of its listeners this process does not serve. It serves all others. */
  async drop(names: readonly string[]): Promise<void> {
    const succession = this.#succession
    if (succession === undefined) return
    const { pid } = succession.predecessor
    try {
      await succession.drop(names)
    } catch {
      succession.checkUndefeated()
      // The predecessor or its channel has ended. It decides by the pipes
    }
    for (const name of names)
      this.#hooks.report({
        code: 'dropped',
        message: `The listener ${name} of process ${pid} is served no more.`,
        pid,
        name
      })
  }

  /**
   * Reads the byte, if there is a predecessor. From then on this process owns, or ends: it has all servers accept, and calls `serve()`, or `fail()`.
   * @throws ERR_PASSFD_TAKEOVER_TOO_LATE, ERR_PASSFD_TAKEOVER_OVER: the predecessor has gone on then, and all is closed. Or the system's error, before
   * the byte.
   */
  win(): void {
    this.#succession?.checkUndefeated()
    this.#path ??= this.#succession!.path
    this.#listening = this.#path.dup()
    try {
      this.#listening.borrow() // a number of its own now: without descriptors the predecessor serves on
      this.#life = this.#succession?.life ?? new Life()
      this.#succession?.win()
    } catch (error) {
      this.#listening.close()
      throw error
    }
  }

  /** Called when every server accepts: the predecessor lets go. @throws the system's error; then call `fail()`. */
  mark(): void {
    this.#succession?.mark()
  }

  /** Called in the turn of `mark()`: answers on the path. Resolves when candidates are admitted. Reports a failure. */
  async serve(): Promise<void> {
    const { attemptTimeout, freezeTimeout, busy, authorize } = this.#settings
    const hooks = this.#hooks
    const succession = this.#succession
    this.#init = ContainerInit.of(this.#settings.path)
    const { owner, accepting } = Owner.begin(
      {
        path: this.#path!,
        program: this.#program,
        generation: succession?.generation ?? 1,
        limits: { attemptTimeout, freezeTimeout, busy },
        authorize,
        chain: () => [...this.draining],
        hooks: {
          offer: wants => {
            this.#alone = wants === undefined ? [] : hooks.names().filter(name => !wants.includes(name))
            const copies = hooks.copies()
            hooks.begun?.()
            return copies
          },
          drops: names => {
            this.#alone = names.filter(name => hooks.names().includes(name))
          },
          freeze: context => hooks.freeze(context),
          rollBack: how => {
            this.#alone = []
            hooks.rollBack(how)
          },
          letGo: (peer, to) => this.#letGo(peer, to),
          report: (code, { pid }, detail) =>
            hooks.report({ code, message: `Process ${pid} takes over: ${detail}.`, pid })
        }
      },
      this.#life!,
      this.#listening!
    )
    this.#owner = owner
    if (succession !== undefined) this.#follow(succession)
    await accepting.catch(error =>
      hooks.report({ code: 'path', message: `The takeover path can't be served: ${asError(error).message}` })
    )
  }

  /** Called if it could not accept, or write the mark, after the byte: the predecessor goes on. */
  fail(): void {
    this.#listening!.close()
    this.#succession?.giveUp()
  }

  #follow(succession: Succession): void {
    const { pid } = succession.predecessor
    this.#followed = pid
    succession.listenTo({
      onLeft: (connections, chain) => this.#drainers.told(pid, connections, chain),
      onConnections: (name, connections, slot) => this.#hooks.onConnections(name, connections, slot),
      onWorker: (slot, end) => {
        if (this.#hooks.onWorker === undefined) end.close()
        else this.#hooks.onWorker(slot, end)
      },
      onEnd: () => {
        this.#followed = undefined
        this.#drainers.ended()
      }
    })
  }

  #letGo(successor: Peer, to: Successor): void {
    this.#owner = undefined
    this.#successor = to
    const { pid } = successor
    this.#init?.follow(pid)
    for (const name of this.#alone)
      this.#hooks.report({
        code: 'dropped',
        message: `The listener ${name} is served no more, by a decision of process ${pid}.`,
        pid,
        name
      })
    this.#hooks.letGo(successor, this.#alone)
    const tell = (): void => to.left(this.#hooks.connections(), [...this.draining])
    const look = setInterval(tell, LOOK).unref()
    tell()
    void this.#left.promise.then(() => clearInterval(look))
  }

  /** Sends connections to the successor that this superseded process accepted and that none of its servers takes: see `Successor.give`. Moves them. */
  async give(name: string, connections: Descriptor[], slot?: number): Promise<void> {
    if (this.#successor === undefined) closeOffLoop(connections)
    else await this.#successor.give(name, connections, slot)
  }

  /** Connects a worker of the successor to one of this superseded supervisor that gives its state. The Descriptor is moved. */
  giveWorker(slot: number, end: Descriptor): void {
    if (this.#successor === undefined) end.close()
    else this.#successor.worker(slot, end)
  }

  /** Gives up before the commit: closes everything that the predecessor has offered, and the predecessor goes on. */
  async giveUp(): Promise<void> {
    this.#givenUp = true
    if (this.#succession !== undefined) {
      this.#succession.giveUp()
      return
    }
    if (this.#file !== undefined) await removeOrWarn(this.#file)
    this.#file = undefined
    if (this.#path?.closed === false) this.#path.close()
    this.#life?.end()
  }

  /** Admits no further candidate. Resolves when the present attempt has its outcome, which may be a successor. */
  async stop(): Promise<void> {
    await this.#owner?.stop()
    this.#owner = undefined
  }

  /** Called at the very end, when this process serves no more. */
  async leave(): Promise<void> {
    this.#left.resolve()
    this.#drainers.close()
    this.#init?.close()
    await this.#successor?.end()
    this.#life?.end()
  }

  /** @throws ERR_PASSFD_TAKEOVER_LISTENERS if a listener of the predecessor was neither listed nor dropped. */
  checkDecided(undecided: readonly string[]): void {
    if (undecided.length > 0)
      throw new PassfdError('TAKEOVER_LISTENERS', { pid: this.predecessor!.pid, names: undecided.join(', ') })
  }
}

/** Emits a report without a listener as a process warning. */
export function warnOf({ code, message }: Report): void {
  process.emitWarning(message, { type: 'TakeoverWarning', code: `PASSFD_TAKEOVER_${code.toUpperCase()}` })
}
