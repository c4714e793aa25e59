/** The admin channel: a supervisor asked and commanded from another process of the same user. */
import type { EventEmitter } from 'node:events'
import { setImmediate } from 'node:timers'
import { checkInteger, describe } from '../../base/check.ts'
import { asError, PassfdError } from '../../base/errors.ts'
import { checkOptions, type KnownOptions } from '../../base/known-options.ts'
import type { Channel } from '../../channel/channel.ts'
import type { Message } from '../../channel/message.ts'
import { listen, stopAccepting } from '../../channel/server.ts'
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import { type Peer, sameUserOrRoot } from '../../descriptor/peer.ts'
import { accessOf } from '../../os/account.ts'
import { listenOn, removeUnused } from '../../os/socket-name.ts'
import type { Draining } from '../../takeover/messages.ts'
import type { EmptySlot, WorkerInfo } from '../control/worker-info.ts'
import type { AdminSpec } from '../options.ts'
import type { Commands, SupervisorEvents, SupervisorPhase } from './commands.ts'
import { type LastLines, MOST_LINES } from './last-lines.ts'
import type { OutputStream } from './output-lines.ts'

/** The requests of the admin channel: `connect(path)` from 'passfd' and `request(command)`. */
export type AdminCommand =
  /** Answer: AdminStatus. */
  | { command: 'status' }
  /** Answered when it is done; rejects as the method of that name does. */
  | { command: 'reload' }
  | { command: 'scale'; workers: number }
  /** Answered at once, because the channel ends together with the supervisor. */
  | { command: 'stop' }
  | { command: 'kill' }
  /** Answer: OpenMetrics text. */
  | { command: 'metrics' }
  /**
   * From then on the supervisor sends its events as messages: AdminEvent. `lines`: the workers' output, too (`spawn.stdio` is `'lines'`). `last`: the
   * last lines before that, so many at most (1,000 and 1 MiB are kept), in order before the new ones. Answer: SubscribeAnswer.
   */
  | { command: 'subscribe'; lines?: boolean; last?: number }

/** A worker, without its channel. */
export type AdminWorker = Omit<WorkerInfo, 'channel'>

export interface AdminStatus {
  pid: number
  /** `'lame duck'`: the supervisor was told to stop, and its workers still serve as before. */
  phase: SupervisorPhase
  /** The wanted number of workers. */
  size: number
  listeners: Record<string, unknown>
  /** When the supervisor was started, in ms since 1970. */
  since: number
  /** The workers are other programs (`command`): their `connections`, `requests` and `lag` are unknown, and 0. */
  foreign: boolean
  /** The superseded supervisors before this one that still have connections. */
  draining: readonly Draining[]
  workers: AdminWorker[]
  /** The slots without a worker. Undefined: the supervisor runs an older passfd. */
  empty?: readonly EmptySlot[]
}

export interface SubscribeAnswer {
  /** How many of the lines that come are earlier ones. */
  last: number
}

export interface AdminEvent {
  event: keyof SupervisorEvents
  worker?: AdminWorker
  code?: number | null
  signal?: string | null
  error?: { code?: string; message: string }
  /** Of 'superseded': the process that serves now. */
  successor?: { pid: number }
  /** Of 'line'. */
  stream?: 'stdout' | 'stderr'
  /** Of 'line': its first bytes, up to 256 KiB; of an earlier line up to 64 KiB. */
  line?: Uint8Array
  /** Of 'line', if the supervisor has cut it: how many bytes it had. */
  length?: number
  /** Of 'line': when the supervisor has read it, in ms since 1970. */
  time?: number
  /** Of 'line': how many lines before this one the subscriber has missed, because it reads too slowly. */
  missed?: number
}

/** What the admin channel asks of its supervisor beside the commands. */
export interface AdminSubject {
  readonly since: number
  readonly foreign: boolean
  readonly lastLines: LastLines | undefined
  emptySlots(): readonly EmptySlot[]
}

export interface AdminServer {
  /** Returns the number of the admin channel's own listeners for an event. It is 0 while a subscriber gets the events. */
  unheard(event: keyof SupervisorEvents): number
  /** The listening socket, of which a successor gets a copy. Undefined: no successor can come. */
  readonly socket: Descriptor | undefined
  readonly path: string
  /** Another process answers at the path. Channels that are open stay so until `close()`. */
  leavePath(): void
  close(): Promise<void>
}

/** The supervisor does not wait for subscribers to read events: a subscriber that does not read misses some. */
const MAX_QUEUED = 4 * 1024 * 1024
/** How much of a line is sent, in bytes: it has to fit into the queue and into a message. */
const MAX_LINE = 256 * 1024
const BACKLOG = 511
/** How long the end of the supervisor waits for a subscriber that does not read, in ms. */
const CLOSE = 1000

const COMMAND: KnownOptions<{ command: string }> = { command: true }
const SCALE = { command: true, workers: true } as const satisfies KnownOptions<AdminCommand & { command: 'scale' }>
const SUBSCRIBE = { command: true, lines: true, last: true } as const satisfies KnownOptions<
  AdminCommand & { command: 'subscribe' }
>
const KNOWN: Partial<Record<AdminCommand['command'], object>> = { scale: SCALE, subscribe: SUBSCRIBE }
const EVENTS = [
  'worker',
  'exit',
  'state',
  'gaveUp',
  'reloadFailed',
  'crashLoop',
  'beyondLimit',
  'routeFailed',
  'acceptError',
  'lameDuck',
  'superseded'
] as const

/**
 * `keeps`: a successor may take the path over, so its file is removed only if nobody listens there when the server has closed. `inherited`: the predecessor's listening socket, which is
 * moved in.
 */
export async function openAdmin(
  { path, ...file }: AdminSpec,
  supervisor: Commands,
  subject: AdminSubject,
  keeps: boolean,
  inherited?: Descriptor
): Promise<AdminServer> {
  const access = accessOf(file, file.mode ?? 0o600, 'options.admin.')
  const { owner, group } = access
  const socket = inherited ?? (keeps ? own((await listenOn({ path }, access, BACKLOG)).fd) : undefined)
  const copy = socket?.dup()
  const server = await listen<AdminCommand, AdminEvent>(socket ?? path, {
    ...(socket === undefined ? file : {}),
    authorize: peer =>
      sameUserOrRoot(peer) ||
      peer.uid === owner ||
      (group !== undefined && (peer.gid === group || peer.groups.includes(group))),
    maxQueued: MAX_QUEUED,
    requestTimeout: 0,
    closeTimeout: CLOSE
  })
  let isLeft = false
  const subscribers = new Set<Channel<AdminCommand, AdminEvent>>()
  const lines = new LineSubscribers(supervisor, subject.lastLines)
  const tell = (event: AdminEvent): void => {
    for (const channel of subscribers) {
      try {
        void channel.send(event)
      } catch {
        // The subscriber reads too slowly, or its channel has ended
      }
    }
  }
  const stopListening = forward(supervisor, tell)
  server.serve(message => answer(message, supervisor, subject, subscribers, lines))
  return {
    socket: copy,
    path,
    leavePath: () => {
      isLeft = true
      copy?.close()
      stopAccepting(server)
    },
    unheard: event => (subscribers.size === 0 && (EVENTS as readonly string[]).includes(event) ? 1 : 0),
    close: async () => {
      stopListening()
      lines.end()
      if (copy?.closed === false) copy.close()
      await server.close({ channels: false })
      // A client takes the end of its channel for the end of the supervisor, so all else is done before
      if (copy !== undefined && !isLeft) await removeUnused(path)
      await Promise.all([...server.channels].map(channel => channel.close()))
    }
  }
}

/** Does what a message asks. Throws ERR_PASSFD_INVALID_ARGUMENT; what it returns is the answer, or rejects as the method of that name does. */
export function answer(
  { value, channel }: Message<AdminCommand>,
  supervisor: Commands,
  subject: AdminSubject,
  subscribers: Set<Channel<any, any>>,
  lines: LineSubscribers
): unknown {
  if (typeof value === 'object' && value !== null)
    checkOptions(value, KNOWN[value.command] ?? COMMAND, 'The command', { ...SCALE, ...SUBSCRIBE })
  switch (value?.command) {
    case 'status':
      return statusOf(supervisor, subject)
    case 'reload':
      return supervisor.reload()
    case 'scale':
      return supervisor.scale(value.workers)
    case 'metrics':
      return supervisor.metrics()
    case 'stop':
      setImmediate(() => void supervisor.stop())
      return
    case 'kill':
      setImmediate(() => void supervisor.kill())
      return
    case 'subscribe':
      if (!subscribers.has(channel)) void channel.closed.then(() => subscribers.delete(channel))
      subscribers.add(channel)
      return { last: value.lines === true ? lines.add(channel, value.last ?? 0) : 0 } satisfies SubscribeAnswer
    default:
      throw new PassfdError('INVALID_ARGUMENT', {
        what: 'command',
        expected: "'status', 'reload', 'scale', 'stop', 'kill', 'metrics' or 'subscribe'",
        actual: describe((value as { command?: unknown } | null)?.command)
      })
  }
}

function statusOf(supervisor: Commands, { since, foreign, ...subject }: AdminSubject): AdminStatus {
  return {
    pid: process.pid,
    phase: supervisor.phase,
    size: supervisor.size,
    listeners: supervisor.addresses,
    since,
    foreign,
    draining: supervisor.draining,
    workers: supervisor.workers.map(sendable),
    empty: subject.emptySlots()
  }
}

function sendable({ channel, ...worker }: WorkerInfo): AdminWorker {
  return worker
}

/** Returns a function that ends it. */
function forward(supervisor: EventEmitter<any>, tell: (event: AdminEvent) => void): () => void {
  const listeners = EVENTS.map(event => {
    const listener = (subject: unknown, code?: number | null, signal?: string | null): void => {
      if (event === 'exit') tell({ event, worker: sendable(subject as WorkerInfo), code: code!, signal: signal! })
      else if (event === 'worker' || event === 'state') tell({ event, worker: sendable(subject as WorkerInfo) })
      else if (event === 'lameDuck') tell({ event })
      else if (event === 'superseded') tell({ event, successor: { pid: (subject as Peer).pid } })
      else tell({ event, error: errorOf(subject) })
    }
    supervisor.on(event, listener)
    return [event, listener] as const
  })
  return () => {
    for (const [event, listener] of listeners) supervisor.off(event, listener)
  }
}

/** Sends the workers' lines to the subscribers that want them. Without one the supervisor does not make these events for the admin channel. */
class LineSubscribers {
  readonly #supervisor: EventEmitter<SupervisorEvents>
  /** How many lines each of them has missed since the last one that it was sent. */
  readonly #missed = new Map<Channel<AdminCommand, AdminEvent>, number>()
  readonly #lastLines: LastLines | undefined

  constructor(supervisor: EventEmitter<SupervisorEvents>, lastLines: LastLines | undefined) {
    this.#supervisor = supervisor
    this.#lastLines = lastLines
  }

  /** Sends it the last lines, `last` at most, and then those that come. Returns how many earlier ones that are. */
  add(channel: Channel<any, any>, last: number): number {
    checkInteger(last, 'last', 0, MOST_LINES)
    if (this.#missed.has(channel)) return 0
    if (this.#missed.size === 0) this.#supervisor.on('line', this.#send)
    this.#missed.set(channel, 0)
    void channel.closed.then(() => {
      this.#missed.delete(channel)
      if (this.#missed.size === 0) this.end()
    })
    const earlier = this.#lastLines?.last(last) ?? []
    for (const { length, ...line } of earlier)
      this.#sendTo(channel, { event: 'line', ...line, ...(length === undefined ? {} : { length }) })
    return earlier.length
  }

  end(): void {
    this.#supervisor.off('line', this.#send)
  }

  readonly #send = (worker: WorkerInfo, stream: OutputStream, line: Buffer): void => {
    const time = Date.now()
    const event: AdminEvent = {
      event: 'line',
      worker: sendable(worker),
      stream,
      time,
      line: line.subarray(0, MAX_LINE)
    }
    if (line.length > MAX_LINE) event.length = line.length
    for (const channel of this.#missed.keys()) this.#sendTo(channel, event)
  }

  #sendTo(channel: Channel<AdminCommand, AdminEvent>, event: AdminEvent): void {
    const missed = this.#missed.get(channel)!
    try {
      void channel.send(missed === 0 ? event : { ...event, missed })
      this.#missed.set(channel, 0)
    } catch {
      this.#missed.set(channel, missed + 1) // it reads too slowly, or its channel has ended
    }
  }
}

function errorOf(error: unknown): { code?: string; message: string } {
  const { code, message } = asError(error) as NodeJS.ErrnoException
  return code === undefined ? { message } : { code, message }
}
