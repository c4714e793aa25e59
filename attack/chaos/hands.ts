/** What processes had in their hands when they were killed: only that may fail. */
import { basename } from 'node:path'
import type { startKiller } from '../../test/helpers/prefork.ts'
import type { Failure } from '../../test/system/load/clients.ts'
import type { Server } from './servers.ts'

interface Span {
  /** Times of Date.now(). */
  from: number
  until: number
}

/** It had been stopped in between. */
interface Kill extends Span {
  /** Clients of TCP: address and port. */
  clients: Set<string>
  unix: number
  datagrams: number
}

type Killer = ReturnType<typeof startKiller>

/** HTTP/2 streams that began when the server had announced its end: the client may send the request elsewhere (RFC 9113, 8.7). */
const REFUSED_STREAM = 'REFUSED_STREAM'

/** The client's connection was there, or was tried, in that time, and failed in it or later. */
const fellInto = ({ opened = 0, at }: Failure, { from, until }: Span): boolean => opened <= until && at >= from

export class Hands {
  readonly #killer: Killer
  readonly #kills: Kill[] = []

  constructor(killer: Killer) {
    this.#killer = killer
  }

  /** Times of Date.now() in which a process got no descriptors. */
  readonly #starved: Span[] = []
  readonly #gaps: Span[] = []

  get kills(): number {
    return this.#kills.length
  }

  /** Connections and datagrams that killed processes had. */
  get count(): number {
    return this.#kills.reduce(
      (sum, { clients, unix, datagrams }) => sum + clients.size + unix + Math.max(0, datagrams - 1),
      0
    )
  }

  /** Stops a process, looks at what it has, and kills it. */
  async kill(server: Server, pid: number): Promise<void> {
    // A supervisor gets back what a worker has not received. A predecessor may have ended by then
    const how = server.kind.program === 'takeover' ? this.#killer.killWithQueued : this.#killer.kill
    await this.#take(server, pid, () => how(pid))
  }

  /** The same for one that its supervisor is going to kill, because it says nothing any more. */
  async stop(server: Server, pid: number): Promise<void> {
    await this.#take(server, pid, () => this.#killer.stop(pid))
  }

  /** A process gets no descriptors while `work` runs. */
  async starve(work: () => Promise<void>): Promise<void> {
    const from = Date.now()
    await work()
    this.#starved.push({ from, until: Date.now() })
  }

  /** Whether a connection was there while a process got no descriptors. */
  wasStarved(failure: Failure): boolean {
    return failure.opened !== undefined && this.#starved.some(span => fellInto(failure, span))
  }

  /** The process that was killed had the listeners alone. With them end the clients that waited there, and the next ones are refused. */
  nobodyServed(from: number, until: number): void {
    this.#gaps.push({ from, until })
  }

  /** Refusals that only a server which has ended may give. */
  refusals(failures: readonly Failure[]): Failure[] {
    return failures.filter(
      failure => failure.outcome === 'refused' && failure.code !== REFUSED_STREAM && !this.#hadNobody(failure)
    )
  }

  /** How many waited at a killed process's listener: nobody had accepted them. */
  countWaiting(failures: readonly Failure[]): number {
    return failures.filter(failure => failure.outcome !== 'refused' && this.#waited(failure)).length
  }

  #waited(failure: Failure): boolean {
    return failure.used === 0 && this.#hadNobody(failure)
  }

  #hadNobody(failure: Failure): boolean {
    return this.#gaps.some(gap => fellInto(failure, gap))
  }

  async #take(server: Server, pid: number, how: () => ReturnType<Killer['kill']>): Promise<void> {
    const from = Date.now()
    const accepted: { port?: number; address?: string; path?: string }[] = await how()
    const clients = accepted.flatMap(({ port, address }) => (port === undefined ? [] : [`${address} ${port}`]))
    this.#kills.push({
      from,
      until: Date.now(),
      clients: new Set(clients),
      // cluster binds a path relative to its working directory
      unix: accepted.filter(({ path }) => path !== undefined && basename(path) === basename(server.place.unix.path))
        .length,
      datagrams: server.datagramsOf(pid)
    })
  }

  /**
   * Failures that no killed process explains. Each Unix connection and each datagram that one had explains one: these clients have no name. `ends`: all
   * processes have ended, and with them the sockets in which datagrams waited.
   */
  unexplained(failures: readonly Failure[], ends: boolean): Failure[] {
    let unix = this.#sum('unix')
    let datagrams = this.#sum('datagrams')
    return failures.filter(failure => {
      if (failure.outcome === 'refused') return false
      const { kind, address, port, outcome } = failure
      if (this.#waited(failure)) return false
      if (kind.endsWith('unix')) return unix-- <= 0
      if (kind.startsWith('udp')) return outcome !== 'timedOut' || !(ends || datagrams-- > 0)
      if (port === undefined) return true
      const client = `${kind.endsWith('IPv6') ? '::1' : (address ?? '127.0.0.1')} ${port}`
      // The connection was there before the kill, and failed after it
      return !this.#kills.some(kill => kill.clients.has(client) && fellInto(failure, kill))
    })
  }

  #sum(what: 'unix' | 'datagrams'): number {
    return this.#kills.reduce((sum, kill) => sum + kill[what], 0)
  }
}
