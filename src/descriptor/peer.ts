/** The process at the other end of a socket. */

import { userInfo } from 'node:os'
import { EINVAL, ENODATA, ENOPROTOOPT, ERANGE, ESRCH } from '../base/errno.ts'
import { checked, PassfdError, systemError } from '../base/errors.ts'
import { native } from '../os/native.ts'
import { type Descriptor, own } from './descriptor.ts'

/**
 * The process at the other end, as the kernel reports it (`SO_PEERCRED`, `SO_PEERGROUPS`, unix(7)): as it was when it called connect(2),
 * listen(2) or socketpair(2). For a `pair()` both ends report the process that made the pair.
 */
export interface Peer {
  readonly pid: number
  readonly uid: number
  readonly gid: number
  readonly groups: readonly number[]
  /** The program's name in its hello, for example `passfd/0.1.0`; '' before the hello. Untrusted. */
  readonly agent: string
  /**
   * Returns a pidfd of the process (SO_PEERPIDFD, Linux 6.5): a Descriptor that the caller owns. It never means another process with the same
   * pid. It works in `authorize`, and until the connection is closed.
   * @throws `ERR_PASSFD_PEER_PIDFD` on an older kernel, when the connection is closed, or (Linux before 6.16) when the process was reaped.
   */
  pidfd(): Descriptor
}

/** @internal The socket of a peer, as long as it is not `ended`. */
export interface PeerSocket {
  readonly fd: number
  readonly ended: boolean
}

/** @internal */
export const NO_SOCKET: PeerSocket = { fd: -1, ended: true }
const sources = new WeakMap<object, PeerSocket>()

/** @internal The peer asks `source` for the number of its socket from now on. */
export function askOf(peer: Peer, source: PeerSocket): Peer {
  sources.set(peer, source)
  return peer
}

/** @internal Returns the peer with the data of its hello. */
export function withAgent(peer: Peer, agent: string): Peer {
  const named = described({ ...peer, agent })
  const source = sources.get(peer)
  return source === undefined ? named : askOf(named, source)
}

/** Not enumerable: a peer is printed and compared by its facts. */
function described(facts: Omit<Peer, 'pidfd'>): Peer {
  return Object.defineProperty(facts, 'pidfd', { value: pidfd, configurable: true, writable: true }) as Peer
}

function pidfd(this: Peer): Descriptor {
  const { fd, ended } = sources.get(this) ?? NO_SOCKET
  if (ended) throw new PassfdError('PEER_PIDFD', { detail: 'the connection is closed, or this is no peer of one' })
  const result = native.peerPidfd(fd)
  if (result >= 0) return own(result)
  throw noPidfd(result, 'getsockopt')
}

/** @internal Why the kernel gave no pidfd of a process at the other end. */
export function noPidfd(errno: number, syscall: string): PassfdError {
  const detail =
    errno === ENOPROTOOPT
      ? 'it takes Linux 6.5. Without it compare what /proc says of the pid before and after, or rely on uid alone'
      : errno === ESRCH || errno === EINVAL || errno === ENODATA
        ? 'its process has ended and was collected'
        : 'the system refused it (cause)'
  return new PassfdError('PEER_PIDFD', { detail }, { cause: systemError(errno, syscall) })
}

let out = new Int32Array(4 + 64)

/** `source`: the socket that `pidfd()` asks; by default `fd`, which must stay open as long as it may be asked. */
export function peerOf(fd: number, source: PeerSocket = { fd, ended: false }): Peer {
  let count = native.peer(fd, out)
  if (count === ERANGE) {
    out = new Int32Array(4 + 65536)
    count = native.peer(fd, out)
  }
  checked(count, 'getsockopt')
  const [pid, uid, gid] = out as unknown as [number, number, number]
  const peer = described({
    pid,
    uid: uid >>> 0,
    gid: gid >>> 0,
    groups: sharedGroups(out.subarray(4, 4 + count)),
    agent: ''
  })
  return askOf(peer, source)
}

/** This process as the peer of a channel to itself. Where Node does not know users (Windows) they are 0. */
export function ownPeer(): Peer {
  const facts = {
    pid: process.pid,
    uid: process.geteuid?.() ?? 0,
    gid: process.getegid?.() ?? 0,
    groups: process.getgroups?.() ?? [],
    agent: ''
  }
  return askOf(described(facts), NO_SOCKET)
}

let lastGroups: readonly number[] = Object.freeze([])

/** Peers of one user share these values, which a channel keeps as long as it lives. */
function sharedGroups(signed: Int32Array): readonly number[] {
  const groups = Array.from(signed, group => group >>> 0)
  if (groups.length !== lastGroups.length || groups.some((group, index) => group !== lastGroups[index]))
    lastGroups = Object.freeze(groups)
  return lastGroups
}

/** The default: a process of our own user, or root. */
export function sameUserOrRoot(peer: Pick<Peer, 'uid'>): boolean {
  return peer.uid === 0 || peer.uid === ownUser()
}

/** The reason of a refusal, for the error's message. passfd also sends it to the peer. */
export function whyRefused(authorize: unknown): string {
  return authorize === undefined
    ? 'by default only processes of the same user and of root are let in (see the option authorize)'
    : 'authorize() refused'
}

function ownUser(): number {
  return process.geteuid?.() ?? userInfo().uid
}
