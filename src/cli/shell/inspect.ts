/** `passfd inspect`: what a process holds, or who is at a Unix socket. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { UnixSocket } from '../../os/unix-sockets.ts'
import { CommandError, EXIT, ExitWith } from '../exit.ts'
import { socketOf } from '../names.ts'
import { printable, shortened } from '../printable.ts'
import { table } from '../table.ts'
import { examples, Ui } from '../ui.ts'
import { countOf } from '../words.ts'
import { describeHeld, type Held } from './held.ts'
import { commandOf, type Holder, linksOf, type Process, processOf } from './holders.ts'
import { Survey } from './survey.ts'

export function registerInspect(program: Command): void {
  const inspect = program
    .command('inspect')
    .summary('Shows what a process holds, or who is at a Unix socket.')
    .description(
      'Shows what a process holds: each descriptor, of what kind it is, how it was opened, who is at the other end, what waits there to be read, and how many descriptors are in flight to it (Linux 5.6). Of a Unix socket: who listens there and who is connected.'
    )
    .argument('<target>', 'a PID; a socket: a path with a "/", "@" and an abstract name; or the NAME of a server')
    .option('--json', 'print JSON')
    .action((target: string) => {
      const ui = new Ui(inspect)
      if (/^\d+$/.test(target)) inspectProcess(Number(target), ui)
      else inspectSocket(target, ui)
    })
  examples(
    inspect,
    ['passfd inspect $$', 'what this shell holds'],
    ['passfd inspect /run/app.sock', 'who listens at a socket, and who is connected'],
    ['passfd inspect --json $$', 'the same for a program']
  )
}

/** How many processes stand in a line. */
const MOST_SHOWN = 3

/** What this user may not see. */
interface Limits {
  missing?: string[]
}

interface ProcessReport extends Process, Limits {
  descriptors: Held[]
}

/** One end of a connection: who holds it. Several processes may. */
interface End {
  holders: Holder[]
  /** The user that made the socket. */
  uid?: number
  /** Descriptors that wait there, unread. */
  inFlight?: number
  /** Bytes that wait there, unread. */
  received?: number
}

interface SocketReport extends Limits {
  socket: string
  listeners: (End & { kind: string; waiting: number; backlog: number })[]
  connections: { server: End; client: End }[]
  /** Clients whose connections nobody has accepted yet. */
  waiting: End[]
}

function inspectProcess(pid: number, ui: Ui): void {
  const process = processOf(pid)
  if (process.uid === undefined)
    throw new CommandError(EXIT.noInput, `There is no process ${pid}`, 'ps(1) lists those that run', { code: 'ESRCH' })
  const links = linksOf(pid)
  const survey = new Survey(pid)
  const descriptors = [...(links ?? [])].map(([fd, link]) => describeHeld(pid, fd, link, survey))
  const missing: string[] = []
  if (links === undefined)
    missing.push(`Only its own user and root may see what process ${pid} holds: run this as user ${process.uid}`)
  missing.push(...limitsOf(survey, descriptors.filter(({ peerHidden }) => peerHidden).length))
  const hasUnix = descriptors.some(({ kind }) => kind.startsWith('unix-'))
  if (hasUnix && survey.network.limit !== undefined)
    missing.push(`The other ends of Unix sockets are unknown: ${survey.network.limit}`)
  const report: ProcessReport = { ...process, descriptors, ...(missing.length === 0 ? {} : { missing }) }
  ui.result(report, processText(report, ui))
  end(missing, ui)
}

/** `count`: how many ends nobody is known to hold. */
function limitsOf({ holders }: Survey, count: number): string[] {
  if (count === 0 || holders.hidden.length === 0) return []
  const [ends, processes] = [countOf(count, 'other end'), `${holders.hidden.length} of the processes`]
  return [`The holders of ${ends} are unknown: this user may not see what ${processes} hold. Root may`]
}

/** Says what is missing, and ends with exit code 77. With `--json` it stands in the result. */
function end(missing: readonly string[], ui: Ui): void {
  if (missing.length === 0) return
  if (!ui.json) for (const one of missing) ui.note(`passfd: ${one}.`)
  throw new ExitWith(EXIT.noPermission)
}

function processText({ pid, command, uid, descriptors }: ProcessReport, ui: Ui): string {
  const title = `${ui.out.bold(`process ${pid}`)}  ${printable(shortened(command, 120))}  ${ui.out.dim(`(user ${uid})`)}`
  const rows = descriptors.map(held => [String(held.fd), held.kind, held.access ?? '', printable(textOf(held))])
  return [title, ...table([['FD', 'right'], ['KIND'], ['ACCESS'], ['WHAT']], rows)].join('\n')
}

/** A description in words. */
export function textOf(held: Held): string {
  const { received, sent, inFlight } = held
  const facts = [
    held.path === undefined ? undefined : `${held.path}${held.deleted ? ' (deleted)' : ''}`,
    addressText(held),
    held.name,
    held.state,
    held.pid === undefined ? undefined : held.pid < 0 ? 'a process that has ended' : processName(held.pid),
    held.watches === undefined ? undefined : `watches ${held.watches.join(' ') || 'nothing'}`,
    held.count === undefined ? undefined : `count ${held.count}`,
    held.waiting === undefined ? undefined : waitingText(held.waiting, held.backlog),
    received ? `${countOf(received, 'byte')} to be read` : undefined,
    sent && held.kind === 'tcp' ? `${countOf(sent, 'byte')} not confirmed` : undefined,
    inFlight ? `${countOf(inFlight, 'descriptor')} in flight` : undefined,
    held.flags?.filter(flag => flag !== 'close-on-exec' && flag !== 'nonblocking').join(' ') || undefined,
    peersText(held)
  ]
  return facts.filter(fact => fact !== undefined).join(', ')
}

function addressText({ local, remote }: Held): string | undefined {
  if (local === undefined) return undefined
  return remote === undefined ? local : `${local} ↔ ${remote}`
}

function peersText({ peers, peerHidden, kind }: Held): string | undefined {
  if (peerHidden) return 'the other end is held by a process that is not shown'
  if (peers === undefined) return undefined
  if (peers.length === 0) return kind === 'pipe' ? 'nobody holds the other end' : undefined
  return `other end: ${holdersText(peers)}`
}

function holdersText(holders: readonly Holder[]): string {
  const numbers = new Map<number, number[]>()
  for (const { pid, fd } of holders) numbers.set(pid, [...(numbers.get(pid) ?? []), fd])
  const processes = [...numbers].map(([pid, fds]) => {
    const { command } = holders.find(one => one.pid === pid)!
    return `process ${pid} fd ${fds.slice(0, 3).join(' ')}${fds.length > 3 ? ' …' : ''} (${shortened(command, 40)})`
  })
  const more = processes.length - MOST_SHOWN
  return `${processes.slice(0, MOST_SHOWN).join(', ')}${more > 0 ? ` and ${countOf(more, 'other')}` : ''}`
}

function processName(pid: number): string {
  const command = commandOf(pid)
  return `process ${pid}${command === '' ? '' : ` (${shortened(command, 40)})`}`
}

function waitingText(waiting: number, backlog: number | undefined): string {
  const of = backlog === undefined ? '' : ` of ${backlog}`
  return `${waiting}${of} ${waiting === 1 ? 'waits' : 'wait'} to be accepted`
}

// --- a socket

function inspectSocket(target: string, ui: Ui): void {
  const isAbstract = target.startsWith('@')
  const path = isAbstract ? target : socketOf(target)
  const survey = new Survey('self')
  if (survey.network.limit !== undefined)
    throw new CommandError(EXIT.unavailable, `Who is at ${path} is unknown: ${survey.network.limit}`)
  const isHere = isAbstract ? isNamed(target) : isBoundTo(path)
  const here = survey.network.unix.filter(isHere)
  if (here.length === 0)
    throw new CommandError(
      EXIT.unavailable,
      `Nobody listens at ${path} in this network namespace`,
      isAbstract || target.includes('/') ? 'Start the program that listens there' : `Of a file write ./${target}`,
      { code: 'ECONNREFUSED' }
    )
  const report = socketReport(path, here, survey)
  ui.result(report, socketText(report, ui))
  end(report.missing ?? [], ui)
}

/** Some programs, Node 20 among them, fill an abstract name up with NUL bytes. */
function isNamed(target: string): (socket: UnixSocket) => boolean {
  const name = `\0${target.slice(1)}`
  return socket => socket.name?.replace(/\0+$/, '') === name
}

/** By the number of the file, because a socket may have been bound by a relative path, or by way of /proc/self/fd. */
function isBoundTo(path: string): (socket: UnixSocket) => boolean {
  const found = statSync(path, { throwIfNoEntry: false })
  if (found === undefined) return ({ name, listens }) => listens && name !== undefined && resolve(name) === path
  if (!found.isSocket())
    throw new CommandError(EXIT.noInput, `${path} is not a socket`, 'Name a PID, or the path of a Unix socket')
  const [file, device] = [found.ino % 2 ** 32, kernelsDevice(found.dev)]
  // Some file systems (overlayfs, btrfs) show another device than that of their sockets
  return one => one.file === file && (one.device === device || (one.name !== undefined && resolve(one.name) === path))
}

/** As the kernel writes it, from what stat(2) returns: makedev(3). */
function kernelsDevice(device: number): number {
  const [high, low] = [Math.floor(device / 2 ** 32), (device % 2 ** 32) | 0]
  const major = ((low >>> 8) & 0xfff) | (high & ~0xfff)
  const minor = (low & 0xff) | ((low >>> 12) & ~0xff)
  return ((major << 20) | minor) >>> 0
}

function socketReport(socket: string, here: readonly UnixSocket[], survey: Survey): SocketReport {
  const all = new Map(survey.network.unix.map(one => [one.inode, one]))
  const endOf = (inode: number): End => {
    const holders = survey.holders.of(`socket:[${inode}]`)
    const { uid, received = 0, listens } = all.get(inode) ?? {}
    const first = holders[0]
    const held = first && describeHeld(first.pid, first.fd, `socket:[${inode}]`, survey)
    return {
      holders,
      ...(uid === undefined ? {} : { uid }),
      ...(held?.inFlight === undefined ? {} : { inFlight: held.inFlight }),
      ...(listens ? {} : { received })
    }
  }
  const listening = here.filter(({ listens, type, peer }) => listens || (type === 'dgram' && peer === 0))
  const connected = here.filter(one => !listening.includes(one))
  const datagrams = new Set(listening.filter(({ type }) => type === 'dgram').map(({ inode }) => inode))
  const senders = survey.network.unix.filter(({ peer }) => datagrams.has(peer))
  const listeners = listening.map(({ inode, type, listens, received, sent }) => ({
    ...endOf(inode),
    kind: `unix-${type}${listens ? '-listener' : ''}`,
    waiting: listens ? received : 0,
    backlog: listens ? sent : 0
  }))
  const connections = [
    ...connected.map(({ inode, peer }) => ({
      server: endOf(inode),
      client: peer === 0 ? { holders: [] } : endOf(peer)
    })),
    ...senders.map(({ inode, peer }) => ({ server: endOf(peer), client: endOf(inode) }))
  ]
  const waiting = listening.flatMap(one => one.waiting.map(endOf))
  const ends = [...listeners, ...connections.flatMap(({ server, client }) => [server, client]), ...waiting]
  const missing = limitsOf(survey, ends.filter(({ holders, uid }) => holders.length === 0 && uid !== undefined).length)
  return { socket, listeners, connections, waiting, ...(missing.length === 0 ? {} : { missing }) }
}

function socketText({ socket, listeners, connections, waiting }: SocketReport, ui: Ui): string {
  const lines = [ui.out.bold(printable(socket))]
  for (const one of listeners) {
    const queue = one.kind === 'unix-dgram' ? 'receives datagrams' : waitingText(one.waiting, one.backlog)
    lines.push(`  ${one.kind}  ${printable(endText(one))}  ${queue}`)
  }
  for (const { server, client } of connections)
    lines.push(`  connection  ${printable(endText(client))} ↔ ${printable(endText(server))}`)
  for (const client of waiting) lines.push(`  waits  ${printable(endText(client))}`)
  return lines.join('\n')
}

function endText({ holders, uid, inFlight, received }: End): string {
  const who = holders.length > 0 ? holdersText(holders) : uid === undefined ? 'nobody' : `a process of user ${uid}`
  const facts = [
    received ? `${countOf(received, 'byte')} to be read` : undefined,
    inFlight ? `${countOf(inFlight, 'descriptor')} in flight` : undefined
  ].filter(fact => fact !== undefined)
  return facts.length === 0 ? who : `${who}, ${facts.join(', ')}`
}
