/** Who is at the other end. */
import { userInfo } from 'node:os'
import { checked } from './errors.ts'
import { native } from './native.ts'

/**
 * The process at the other end as the kernel tells (`SO_PEERCRED`, `SO_PEERGROUPS`, unix(7)): as it was when it called
 * connect(2), listen(2) or socketpair(2). For a `pair()` that is the process which made the pair, at both ends.
 */
export interface Peer {
  readonly pid: number
  readonly uid: number
  readonly gid: number
  readonly groups: readonly number[]
  /** What its hello says it is, `passfd/0.1.0` for example; '' before the hello. Not to be trusted. */
  readonly agent: string
}

let out = new Int32Array(4 + 64)

export function peerOf(fd: number): Peer {
  let count = native.peer(fd, out)
  if (count === ERANGE) {
    out = new Int32Array(4 + 65536)
    count = native.peer(fd, out)
  }
  checked(count, 'getsockopt')
  const [pid, uid, gid] = out as unknown as [number, number, number]
  return {
    pid,
    uid: uid >>> 0,
    gid: gid >>> 0,
    groups: sharedGroups(out.subarray(4, 4 + count)),
    agent: ''
  }
}

let lastGroups: readonly number[] = Object.freeze([])

/** Peers of one user have the same, and a channel keeps them as long as it lives. */
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

/** Why somebody is not let in, for the error's sentence. The peer reads it, too. */
export function whyRefused(authorize: unknown): string {
  return authorize === undefined
    ? 'by default only processes of the same user and of root are let in (see the option authorize)'
    : 'authorize() refused'
}

const ERANGE = -34

function ownUser(): number {
  return process.geteuid?.() ?? userInfo().uid
}
