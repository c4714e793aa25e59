/** The sockets of a network namespace by their inodes: the tables of /proc/PID/net (proc_pid_net(5)), and for Unix sockets sock_diag(7). */
import { readlinkSync } from 'node:fs'
import { endianness } from 'node:os'
import { readProc } from '../../os/process-stat.ts'
import { type UnixSocket, unixSockets } from '../../os/unix-sockets.ts'

export interface SocketFacts {
  /** A kind of passfd's, as `tcp-listener`, or the name of the protocol. */
  kind: string
  local?: string
  remote?: string
  /** Of a TCP socket that is neither connected nor listens: `time-wait` and the like. */
  state?: string
  /** A path, or `@` and an abstract name. */
  name?: string
  /** Bytes that wait to be read here. */
  received?: number
  /** Bytes that the other end has not confirmed. */
  sent?: number
  /** Of a listener: connections that nobody has accepted yet. */
  waiting?: number
  backlog?: number
  /** The sockets at the other end that are on this machine. */
  peers: number[]
  /** The user that owns it. */
  uid?: number
}

const TCP_STATES: Record<string, string> = {
  '02': 'connecting',
  '03': 'handshake',
  '04': 'closing',
  '05': 'closing',
  '06': 'time-wait',
  '07': 'not connected',
  '08': 'ended by the other end',
  '09': 'closing',
  '0B': 'closing'
}
const ESTABLISHED = '01'
const LISTEN = '0A'
/** Tables in which only the protocol counts. */
const OTHERS = { netlink: 'netlink', packet: 'packet', raw: 'raw', raw6: 'raw', icmp: 'icmp', icmp6: 'icmp' }
const LITTLE = endianness() === 'LE'

export class Network {
  /** Why the other ends of Unix sockets are unknown. */
  readonly limit: string | undefined
  readonly #sockets = new Map<number, SocketFacts>()
  readonly #unix: readonly UnixSocket[]

  /** Reads what a process sees. */
  constructor(pid: number | 'self') {
    const connections = new Map<string, number>()
    for (const protocol of ['tcp', 'tcp6', 'udp', 'udp6']) this.#readInet(pid, protocol, connections)
    for (const facts of this.#sockets.values()) {
      const other = connections.get(`${facts.kind} ${facts.remote} ${facts.local}`)
      if (other === 0) facts.state ??= 'not accepted yet'
      else if (other !== undefined) facts.peers.push(other)
    }
    for (const [table, kind] of Object.entries(OTHERS))
      for (const [inode] of rowsOf(pid, table)) this.#sockets.set(inode, { kind, peers: [] })
    const { found, limit } = unixOf(pid)
    this.limit = limit
    this.#unix = found
    for (const socket of found) this.#sockets.set(socket.inode, factsOf(socket))
    if (limit !== undefined) this.#readUnixTable(pid)
  }

  get(inode: number): SocketFacts | undefined {
    return this.#sockets.get(inode)
  }

  /** The Unix sockets of this process's namespace. */
  get unix(): readonly UnixSocket[] {
    return this.#unix
  }

  #readInet(pid: number | 'self', protocol: string, connections: Map<string, number>): void {
    const base = protocol.slice(0, 3)
    for (const [inode, { local, remote, state, queues }] of rowsOf(pid, protocol)) {
      const [sent, received] = queues.split(':').map(part => Number.parseInt(part, 16))
      const listens = base === 'tcp' && state === LISTEN
      const facts: SocketFacts = { kind: listens ? 'tcp-listener' : base, local: addressOf(local), peers: [] }
      if (listens) facts.waiting = received!
      else Object.assign(facts, { received, sent })
      if (!remote.endsWith(':0000')) facts.remote = addressOf(remote)
      if (base === 'tcp' && TCP_STATES[state] !== undefined) facts.state = TCP_STATES[state]!
      // A connection has no inode before it is accepted, and after it was closed
      if (state === ESTABLISHED) connections.set(`${base} ${facts.local} ${facts.remote}`, inode)
      if (inode !== 0) this.#sockets.set(inode, facts)
    }
  }

  /** Names and types only. The columns are: number, reference count, protocol, flags, type, state, inode, path. */
  #readUnixTable(pid: number | 'self'): void {
    const types: Record<string, string> = { '0001': 'stream', '0002': 'dgram', '0005': 'seqpacket' }
    for (const line of (readProc(pid, 'net/unix') ?? '').split('\n')) {
      const [, flags, type, inode, name] = /^\S+: \S+ \S+ (\S+) (\S+) \S+ +(\d+) ?(.*)$/.exec(line) ?? []
      if (inode === undefined || this.#sockets.has(Number(inode))) continue
      const listens = (Number.parseInt(flags!, 16) & 0x10000) !== 0
      this.#sockets.set(Number(inode), {
        kind: `unix-${types[type!] ?? 'stream'}${listens ? '-listener' : ''}`,
        ...(name ? { name: Buffer.from(name, 'latin1').toString() } : {}),
        peers: []
      })
    }
  }
}

interface Row {
  local: string
  remote: string
  state: string
  queues: string
}

/** The rows of a table, with the inode, which is in a column of its own in each. */
function rowsOf(pid: number | 'self', table: string): [inode: number, row: Row][] {
  const [head = '', ...lines] = (readProc(pid, `net/${table}`) ?? '').split('\n')
  // In packet and netlink the inode stands in the last columns, under its name
  const column = head
    .trim()
    .split(/\s+/)
    .findIndex(name => /^inode$/i.test(name))
  const inet = /local_address/.test(head)
  return lines.flatMap(line => {
    const cells = line.trim().split(/\s+/)
    if (cells.length < 5) return []
    const [, local = '', remote = '', state = '', queues = ''] = cells
    return [[Number(cells[inet ? 9 : column]), { local, remote, state, queues }]]
  })
}

/** `0100007F:0BB8` is 127.0.0.1:3000: words of 32 bits in the byte order of this machine. */
export function addressOf(text: string): string {
  const [hex = '', port = ''] = text.split(':')
  const bytes = Buffer.from(hex, 'hex')
  if (LITTLE) bytes.swap32()
  const number = Number.parseInt(port, 16)
  const mapped = bytes.length === 16 && bytes.readBigUInt64BE(0) === 0n && bytes.readUInt32BE(8) === 0xffff
  if (bytes.length === 4 || mapped) return `${[...bytes.subarray(-4)].join('.')}:${number}`
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(2 * index).toString(16)).join(':')
  return `[${new URL(`http://[${groups}]/`).hostname.slice(1, -1)}]:${number}`
}

function unixOf(pid: number | 'self'): { found: UnixSocket[]; limit?: string } {
  try {
    const own = namespaceOf('self')
    if ((namespaceOf(pid) ?? own) !== own)
      return { found: [], limit: 'it is in another network namespace: run passfd there, too, by nsenter -n' }
    return { found: unixSockets() }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    // A sentence is ended where it stands
    const why =
      code === 'ERR_PASSFD_RUNTIME' ? message.replace(/\.$/, '') : `the kernel does not say (${code}, sock_diag)`
    return { found: [], limit: why }
  }
}

/** Undefined: this user may not know it. */
function namespaceOf(pid: number | 'self'): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`)
  } catch {
    return undefined
  }
}

function factsOf({ type, listens, name, peer, waiting, received, sent, uid }: UnixSocket): SocketFacts {
  const facts: SocketFacts = { kind: `unix-${type}${listens ? '-listener' : ''}`, peers: peer === 0 ? [] : [peer] }
  if (name !== undefined) facts.name = name.replace(/\0+$/, '').replace(/^\0/, '@')
  if (listens) Object.assign(facts, { waiting: received, backlog: sent, peers: [...waiting] })
  else facts.received = received
  if (uid !== undefined) facts.uid = uid
  return facts
}
