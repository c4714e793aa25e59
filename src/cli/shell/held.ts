/** Describes a descriptor of a process: what it is open on, how, and who is at the other end. */
import { type Stats, statSync } from 'node:fs'
import { readProc } from '../../os/process-stat.ts'
import type { Holder } from './holders.ts'
import type { Survey } from './survey.ts'

export interface Held {
  fd: number
  /** A kind of passfd's, or another one of the kernel's: timerfd, signalfd, inotify, io_uring, namespace, netlink, … */
  kind: string
  /** Of a file or directory: its path. Deleted: what it was. */
  path?: string
  deleted?: boolean
  /** Of a Unix socket: a path, or `@` and an abstract name. Of a memfd: the name that its maker gave it. */
  name?: string
  /** Of a TCP or UDP socket. */
  local?: string
  remote?: string
  state?: string
  access?: string
  flags?: string[]
  /** In bytes. */
  size?: number
  position?: number
  /** Bytes that wait to be read from this socket. */
  received?: number
  /** Bytes that the other end has not confirmed. */
  sent?: number
  /** Of a listener: connections that nobody has accepted yet, and how many may wait. */
  waiting?: number
  backlog?: number
  /** Descriptors that were sent to this socket and wait there, unread (Linux 5.6). Of a listener: in connections that wait, too. */
  inFlight?: number
  /** Of an epoll: the numbers that it watches. */
  watches?: number[]
  /** Of a pidfd: the process; -1: it has ended. */
  pid?: number
  /** Of an eventfd. */
  count?: string
  /** Who holds the other end. */
  peers?: Holder[]
  /** The other end is on this machine, and nobody whose descriptors this user may see holds it. */
  peerHidden?: boolean
}

const ACCESSES = ['read', 'write', 'read-write', 'none']
/** By the bits of open(2), which fdinfo shows in octal. */
const FLAGS: readonly (readonly [number, string])[] = [
  [0o2000, 'append'],
  [0o4000, 'nonblocking'],
  [0o10000, 'sync'],
  [0o40000, 'direct'],
  [0o10000000, 'path'],
  [0o2000000, 'close-on-exec']
]
const O_PATH = 0o10000000
/** Names of anonymous inodes that differ from passfd's kinds. */
const ANONYMOUS: Record<string, string> = { eventpoll: 'epoll', io_uring: 'io_uring' }

/** `link`: the target of /proc/PID/fd/FD. `stat`: of a file; stat(2) may block if its file system does not answer. */
export function describeHeld(
  pid: number | 'self',
  fd: number,
  link: string,
  survey: Survey,
  stat: () => Stats | undefined = () => statOf(pid, fd)
): Held {
  const info = readProc(pid, `fdinfo/${fd}`) ?? ''
  const held: Held = { fd, kind: 'other', ...openedAs(info) }
  const inode = /^(socket|pipe):\[(\d+)\]$/.exec(link)
  if (inode?.[1] === 'socket') socketFacts(held, Number(inode[2]), info, survey)
  else if (inode?.[1] === 'pipe') pipeFacts(held, link, pid, survey)
  else if (link.startsWith('/memfd:')) {
    held.kind = 'memfd'
    held.name = link.slice('/memfd:'.length).replace(/ \(deleted\)$/, '')
    addSize(held, info, stat())
  } else if (link.startsWith('anon_inode:')) anonymousFacts(held, link, info)
  else if (/^\w+:\[\d+\]$/.test(link)) Object.assign(held, { kind: 'namespace', name: link })
  else if (link.startsWith('/')) fileFacts(held, link, info, stat())
  else held.name = link
  return held
}

function openedAs(info: string): { access?: string; flags?: string[] } {
  const flags = Number.parseInt(field(info, 'flags') ?? '', 8)
  if (Number.isNaN(flags)) return {}
  const access = (flags & O_PATH) !== 0 ? 'none' : ACCESSES[flags & 3]!
  return { access, flags: FLAGS.filter(([bit]) => (flags & bit) !== 0).map(([, name]) => name) }
}

function socketFacts(held: Held, inode: number, info: string, survey: Survey): void {
  const facts = survey.network.get(inode)
  const inFlight = field(info, 'scm_fds')
  if (inFlight !== undefined) held.inFlight = Number(inFlight)
  if (facts === undefined) {
    // TCP and UDP sockets that are not bound are in no table
    held.kind = 'socket'
    held.state = 'not bound, or of another network namespace'
    return
  }
  const { peers, uid: _, ...rest } = facts
  Object.assign(held, rest)
  if (peers.length === 0) return
  held.peers = peers.flatMap(peer => survey.holders.of(`socket:[${peer}]`))
  if (held.peers.length === 0) held.peerHidden = true
}

/** At the other end is who can write if this end reads. */
function pipeFacts(held: Held, link: string, pid: number | 'self', { holders }: Survey): void {
  held.kind = 'pipe'
  const own = pid === 'self' ? process.pid : pid
  held.peers = holders.of(link).filter(one => {
    if (one.pid === own && one.fd === held.fd) return false
    const { access } = openedAs(readProc(one.pid, `fdinfo/${one.fd}`) ?? '')
    return access !== held.access || access === 'read-write'
  })
  if (held.peers.length === 0 && holders.hidden.length > 0) held.peerHidden = true
}

function anonymousFacts(held: Held, link: string, info: string): void {
  const name = link.slice('anon_inode:'.length).replace(/^\[(.*)\]$/, '$1')
  held.kind = ANONYMOUS[name] ?? name
  if (held.kind === 'epoll') held.watches = [...info.matchAll(/^tfd:\s*(\d+)/gm)].map(([, fd]) => Number(fd))
  const pid = field(info, 'Pid')
  if (held.kind === 'pidfd' && pid !== undefined) held.pid = Number(pid)
  const count = field(info, 'eventfd-count')
  if (count !== undefined) held.count = `0x${count.trim()}`
}

function fileFacts(held: Held, link: string, info: string, found: Stats | undefined): void {
  held.path = link
  if (found === undefined) held.kind = 'file'
  else if (found.isDirectory()) held.kind = 'directory'
  else if (found.isFIFO()) held.kind = 'pipe'
  else if (found.isFile()) held.kind = 'file'
  else if (found.isCharacterDevice() && isTerminal(link)) held.kind = 'tty'
  else held.kind = found.isSocket() ? 'other' : 'device'
  if (link.endsWith(' (deleted)') && found?.nlink === 0) {
    held.path = link.slice(0, -' (deleted)'.length)
    held.deleted = true
  }
  if (held.kind === 'file') addSize(held, info, found)
}

function isTerminal(path: string): boolean {
  return /^\/dev\/(tty|pts\/|console$|ptmx$)/.test(path)
}

function addSize(held: Held, info: string, found: Stats | undefined): void {
  if (found !== undefined) held.size = found.size
  held.position = Number(field(info, 'pos') ?? 0)
}

function statOf(pid: number | 'self', fd: number): Stats | undefined {
  try {
    return statSync(`/proc/${pid}/fd/${fd}`)
  } catch {
    return undefined
  }
}

/** A line of fdinfo (proc_pid_fdinfo(5)). */
function field(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(info)?.[1]
}
