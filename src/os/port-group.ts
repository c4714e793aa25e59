/** TCP listeners that share a port (SO_REUSEPORT, socket(7)): each has its own queue, and the kernel deals connections out to them. */

import { checked } from '../base/errors.ts'
import { bindPort, listenAt } from './bind.ts'
import type { PortSpec } from './bind-spec.ts'
import { ADDRESS, native } from './native.ts'

const IPV6_ONLY = 1
const REUSEPORT = 2
const REUSEPORT_LATER = 4

/**
 * A port and its listeners. With SO_REUSEPORT from the start, the kernel would let the group share a port with any other program of this user that
 * uses the option, and each would lose half of its connections. So the first listener listens without the option, which fails if the port is in
 * use, and gets the option after that. From then on only programs of the same user that use SO_REUSEPORT can share the port.
 */
export class PortGroup {
  /** Numeric. */
  readonly host: string
  /** The given port, or the one that the kernel chose for 0. */
  readonly port: number
  readonly #backlog: number
  readonly #flags: number
  #first: number | undefined

  private constructor(first: number | undefined, host: string, port: number, backlog: number, flags: number) {
    this.#first = first
    this.host = host
    this.port = port
    this.#backlog = backlog
    this.#flags = flags
  }

  /**
   * The port is taken from here on, and connections queue. `spec` is a checked one (`readSpec`). Port 0 is a free one. Errors: EADDRINUSE if
   * anybody listens there, others of bind(2), and of the host's look-up.
   */
  static async open(spec: PortSpec): Promise<PortGroup> {
    const { fd, host, backlog, flags } = await bindPort(spec, REUSEPORT_LATER)
    try {
      return new PortGroup(fd, host, placeOf(fd).port, backlog, flags & IPV6_ONLY)
    } catch (error) {
      native.close(fd)
      throw error
    }
  }

  /** Makes a group of a listener that the caller still owns. It must use SO_REUSEPORT, or the caller calls `share()` before `open()`. */
  static of(listener: number, backlog: number, ipv6Only: boolean): PortGroup {
    const { host, port } = placeOf(listener)
    return new PortGroup(undefined, host, port, backlog, ipv6Only ? IPV6_ONLY : 0)
  }

  /** Lets further listeners join these ones, each of which is alone or a member of this group. */
  share(listeners: readonly number[]): void {
    for (const listener of listeners) native.sharePort(listener)
  }

  /**
   * A listener of the group: held, bound and listening, the caller's to close. At any time, but at least one must be open all the while:
   * with the last one the port goes; and by the same effective user (EADDRINUSE otherwise). The first call gives the one that `PortGroup.open` made.
   */
  open(): number {
    const first = this.#first
    this.#first = undefined
    return first ?? listenAt(this.host, this.port, this.#backlog, this.#flags | REUSEPORT)
  }

  /** Closes the first listener if no call of `open` has returned it. The callers of `open` own the others. */
  close(): void {
    if (this.#first !== undefined) native.close(this.#first)
    this.#first = undefined
  }
}

function placeOf(fd: number): { host: string; port: number } {
  const place = new Int32Array(2)
  const name = Buffer.alloc(ADDRESS)
  const length = checked(native.inetName(fd, false, place, name), 'getsockname')
  return { host: name.toString('latin1', 0, length), port: place[1]! }
}
