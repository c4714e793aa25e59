/**
 * Answers the processes of programs that call `listen()`: whether they are the worker, and which listener they get. Closes listeners whose servers
 * programs have closed.
 */
import { setTimeout as later } from 'node:timers/promises'
import { asError, PassfdError } from '../../base/errors.ts'
import type { Peer } from '../../descriptor/peer.ts'
import { type CheckedSpec, readSpec } from '../../os/bind-spec.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { Welcome } from '../control/control.ts'
import type { Ask, Granted } from '../control/desk.ts'
import type { Reply } from './desk.ts'
import type { Listeners } from './listeners.ts'
import type { WorkerProcess } from './worker-process.ts'
import type { Workers } from './workers.ts'

/** Errors of a new listener that may have their cause in one that no program uses any more. */
const GIVE_WAY: readonly unknown[] = ['EADDRINUSE', 'EMFILE', 'ERR_PASSFD_TOO_MANY_LISTENERS']
/** How long a port may be tried by other workers, in ms, and the interval in which this looks. */
const TRIED = 5000
const TRIED_AGAIN = 20
const REFUSED: Reply = { answer: { type: 'not the worker' }, descriptors: [] }

export class Grants {
  readonly #workers: Workers
  readonly #listeners: Listeners
  readonly #mayClose: () => boolean
  /** Listeners whose servers programs have closed. */
  readonly #left = new Set<string>()
  /** By port: settles when the last question for it is answered. */
  readonly #turns = new Map<number, Promise<void>>()
  /** Settles when those that were left are closed. */
  #closing: Promise<unknown> = Promise.resolve()

  /** `mayClose`: no worker is missing, and no other supervisor holds the listeners. */
  constructor(workers: Workers, listeners: Listeners, mayClose: () => boolean) {
    this.#workers = workers
    this.#listeners = listeners
    this.#mayClose = mayClose
  }

  /** Whether some program serves the listener, or is about to. */
  isUsed(name: string): boolean {
    return this.#workers.some(worker => worker.hasListener(name))
  }

  async answer(ask: Ask, peer: Peer): Promise<Reply> {
    const worker = [...this.#workers].find(({ listening }) => listening.token === ask.token)
    if (worker === undefined) return REFUSED
    return worker.listening.inTurn(async () => {
      if (!worker.listening.admits(peer.pid)) return REFUSED
      try {
        for (const [left, id] of ask.left ?? []) worker.leaves(left, id)
        await this.#closing
        if (ask.wanted === undefined) return { answer: { type: 'left' }, descriptors: [] }
        const spec = readSpec(ask.wanted, 'wanted')
        return await this.#inTurn(spec, () => this.#grant(spec, worker, ask, peer))
      } catch (error) {
        const { code = 'EINVAL', errno = -22, message } = asError(error) as NodeJS.ErrnoException
        return { answer: { type: 'failed', code, errno, message }, descriptors: [] }
      }
    })
  }

  /** Notes that the worker's program has closed its server of this listener. */
  left(name: string, worker: WorkerProcess): void {
    this.#left.add(name)
    this.closeLeft(worker)
  }

  /**
   * Closes the listeners that programs have left, so that the kernel refuses clients. They stay open as long as a worker uses them, or as another one
   * than `leaver` starts, because it may use them soon.
   */
  closeLeft(leaver?: WorkerProcess): void {
    if (this.#left.size === 0 || !this.#mayClose()) return
    if (this.#workers.some(worker => worker !== leaver && worker.state === 'starting' && !worker.ended)) return
    const left = [...this.#left].filter(name => !this.isUsed(name))
    this.#left.clear()
    if (left.length > 0) this.#closing = this.#listeners.closeUnused(name => !left.includes(name), { copies: true })
  }

  async #grant(spec: CheckedSpec, worker: WorkerProcess, ask: Ask, peer: Peer): Promise<Reply> {
    for (;;) {
      const name = worker.mayListen ? await this.#need(spec, ask.nth, worker) : undefined
      if (name === undefined || !worker.mayListen) throw new PassfdError('PROGRAM_ENDING')
      const grant = this.#listeners.grant(name, worker.slot)
      // Otherwise another worker's program has closed it meanwhile
      if (grant !== undefined) return this.#replyWith(grant, name, worker, ask, peer)
    }
  }

  /** One question for a TCP port after the other: one that waits until others have closed the port is not overtaken by them. */
  async #inTurn<T>(spec: CheckedSpec, work: () => Promise<T>): Promise<T> {
    const port = tcpPortOf(spec)
    if (port === undefined) return work()
    const result = (this.#turns.get(port) ?? Promise.resolve()).then(work)
    const turn = result.then(
      () => {},
      () => {}
    )
    this.#turns.set(port, turn)
    try {
      return await result
    } finally {
      if (this.#turns.get(port) === turn) this.#turns.delete(port)
    }
  }

  /**
   * Returns the name of the listener. One that no program uses any more gives way, as if it had been closed when its last server was. For one that
   * another worker only tries it waits.
   */
  async #need(spec: CheckedSpec, nth: number, worker: WorkerProcess): Promise<string> {
    const deadline = performance.now() + TRIED
    for (;;) {
      try {
        return await this.#listeners.need(spec, nth)
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (!GIVE_WAY.includes(code)) throw error
        const closing = this.#listeners.settle()
        const unused = await this.#listeners.closeUnused(name => this.isUsed(name))
        if ((await closing) || unused.length > 0) continue
        if (code !== 'EADDRINUSE' || !this.#isTried(spec, worker) || performance.now() > deadline) throw error
        await later(TRIED_AGAIN)
      }
    }
  }

  /**
   * Whether the port may be in use only because other workers, which start as this one does, look whether it is free: they listen on another address of
   * it, and close that at once, as Vite does.
   */
  #isTried(spec: CheckedSpec, worker: WorkerProcess): boolean {
    const port = tcpPortOf(spec)
    if (port === undefined) return false
    const names = Object.entries(this.#listeners.addresses).filter(
      ([name, address]) => 'port' in address && address.port === port && !/^udp[46] /.test(name)
    )
    const users = names.flatMap(([name]) => this.#workers.filter(one => one.hasListener(name)))
    return users.length > 0 && users.every(one => one !== worker && one.state === 'starting')
  }

  /** Throws if the worker's release of passfd is too far away. */
  #replyWith(grant: ListenerGrant, name: string, worker: WorkerProcess, ask: Ask, peer: Peer): Reply {
    try {
      const address = this.#listeners.address(name)
      const joined = worker.join(ask.join, peer.pid)
      const id = worker.listening.grant(name)
      const { listener, ...rest } = grant
      const { listeners: _, ...welcome } = joined?.welcome ?? { listeners: undefined }
      const answer: Granted = {
        type: 'granted',
        id,
        name,
        address,
        own: rest.own,
        pid: process.pid,
        ...('lane' in rest ? { lane: rest.lane, ...(rest.backlog !== undefined && { backlog: rest.backlog }) } : {}),
        ...(joined === undefined ? {} : { welcome: welcome as Omit<Welcome, 'listeners'> })
      }
      return { answer, descriptors: [listener, ...(joined?.ends ?? [])] }
    } catch (error) {
      grant.listener.close()
      throw error
    }
  }
}

/** Undefined: any port, UDP, or a path. */
function tcpPortOf(spec: CheckedSpec): number | undefined {
  return 'port' in spec && !('type' in spec) && spec.port !== 0 ? spec.port : undefined
}
