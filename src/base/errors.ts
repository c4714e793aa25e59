/** The one error class, the table of its codes, and operating system errors in Node's own shape. */
import { getSystemErrorMap, types } from 'node:util'
import { ETOOMANYREFS } from './errno.ts'
import { mark } from './package-copy.ts'

type Details = Record<string, string | number>

/**
 * Every code with what happened and what to do. `{name}` is filled in. `docs/errors.md` has a heading for
 * each; a test keeps the two lists equal. Codes are stable: programs compare them.
 */
const TABLE = {
  // Misuse: thrown at the call, nothing has moved
  INVALID_ARGUMENT: '{what} must be {expected}; it is {actual}.',
  DESCRIPTOR_CLOSED: 'This {kind} was closed by close(). Use it before closing it, or keep a dup().',
  DESCRIPTOR_MOVED: 'This {kind} was moved away by {by}: {owner}. {remedy}.',
  DESCRIPTOR_DETACHED: 'This {kind} was given up by detach(): the caller of detach() owns the number now.',
  DESCRIPTOR_CONVERTED:
    'This {kind} was used up by {by}: the object that call returned owns it. Convert a dup() to keep one.',
  DESCRIPTOR_UNCLAIMED:
    'This {kind} came in a {message} from {from} and was closed when {ended}, because nothing had claimed it: call claim() on it before that.',
  DESCRIPTOR_OWNED:
    'Descriptor number {fd} already belongs to a Descriptor or a channel of passfd. Adopt a number once; use dup() for a second owner.',
  DESCRIPTOR_KIND: '{operation} needs a descriptor of kind {expected}; this one is a {actual}.',
  DESCRIPTOR_DIRECTION:
    '{operation} needs a descriptor that is open for {expected}; this {kind} is open for {actual}. Open it for both, or use the other direction.',
  DESCRIPTOR_SHARED:
    'This {kind} would have to become non-blocking for every process that shares it, because this process may not open it a second time. Have the sender open it with O_NONBLOCK, and pass that.',
  SOCKET_FILE_LEFT:
    "The socket file {path} can't be removed: {detail}. It stays there, and the next process that binds the path replaces it.",
  PROC: '{operation} needs /proc, which is not mounted here. Mount it: mount -t proc proc /proc.',
  DESCRIPTOR_REPEATED:
    'The same Descriptor or Connection is in two places of the value. Sending moves it, so it can be sent once: use the dup() of a Descriptor for the second place.',
  DESCRIPTOR_SOURCE:
    'Descriptor.from() finds no open descriptor in {actual}. Pass an open socket, server, FileHandle, stream or number.',
  UNREAD:
    'This stream holds {count} bytes that Node has read and the program has not consumed: they would not move with the descriptor. Use Connection.take(stream), or pause the stream before it reads (pauseOnConnect).',
  STREAM_BUSY: "This stream can't be released: {reason}.",
  CONNECTION_SOURCE: "Connection.take() can't take {stream}: {detail}.",
  CONNECTION_GONE: 'This connection {how}. It can be sent or used once, and only before that.',
  SERVER_CLOSED:
    "The server was closed, or its listen() has not finished: it can't serve a connection. Wait for its 'listening' event, or use another server.",
  CLUSTER_WORKER:
    'In a worker of node:cluster listen() uses the descriptor with this number of the primary process, which is another one. Use toServer(), and injectInto() for the connections of other servers; or passfd instead of cluster.',
  OWN_SOCKET:
    "A connection can't be sent through itself: the descriptor is the socket that it would be sent through. Send a Descriptor of something else.",
  ENCODE: "The value can't be sent: {detail}.",
  MESSAGE_TOO_LARGE:
    'The encoded value takes {size} bytes; the limit of {whose} is {limit}. Split it, or send a file or a pipe instead.',
  TOO_MANY_DESCRIPTORS: '{what} carries {count} descriptors; the limit of {whose} is {limit}. {remedy}.',
  QUEUE_FULL: '{what}: {queued} of {limit} ({option}). {remedy}.',
  TOO_MANY_REQUESTS:
    '{count} requests are waiting for an answer, the limit (maxPending). Await some before making more.',
  EMPTY_WRITE:
    "Descriptors can't be sent without bytes: the kernel drops them and reports success. Write at least one byte with them.",
  TOO_MANY_RIGHTS:
    'One write can carry {limit} descriptors (SCM_MAX_FD, unix(7)); this one has {count}. Spread them over several writes.',
  STREAM_ENDED: 'This stream was ended by end(): nothing can be written any more.',
  CHANNEL_CLOSED: 'This channel was closed by close() or destroy(): nothing can be sent any more.',
  SOCKET_CLOSED: 'This datagram socket was closed by {by}: nothing can be sent any more.',
  UNNAMED_SENDER:
    'The datagram came from a socket without a name (or with a name that this process can not reach), so it can not be answered. The sender must bind a name: see the option from of connect().',
  CONSUMED: "This is already read by {by}. It has one consumer: for await, 'message' listeners, or (channels) serve().",
  ANSWERED: 'This request was already answered. Call reply() or fail() once.',
  NOT_A_REQUEST:
    'This is a plain message, whose sender does not wait for an answer. Check isRequest before reply() or fail().',
  ADDRESS_TOO_LONG: 'The address {address} is too long for a Unix socket ({detail}). Use a shorter {part}.',
  ADDRESS_IN_USE_BY_FILE:
    '{address} exists and is not a socket, so passfd does not replace it. Remove it or choose another path.',
  ADDRESS_LOCKED:
    'Another process has held the lock on the directory of {address} for {timeout} ms. Try again, or choose a directory of your own.',
  MEMORY_KIND: 'Only plain memory (memfd_create(2), without huge pages) is mapped; this is a {actual}.',
  MEMORY_SEALS:
    'This memory is not mapped, because it is not sealed against shrinking (F_SEAL_SHRINK): its owner could truncate it, and reading it would kill this process. The program that creates the memory must seal it.',
  MEMORY_SIZE: 'This memory has {actual} bytes; expected: {expected}.',
  MEMORY_READ_ONLY: "This memory can't be mapped writable: {detail}. Map it with writable: false.",
  MEMORY_CLOSED: 'This SharedMemory was closed: it is not mapped any more.',
  POOL_CLOSED: 'This MemoryPool was closed by close(): it has no slots any more.',
  SLOT_GONE: 'This slot was lent or released, and may have another user by now. Acquire another one.',
  LOAN_INVALID: 'This loan can not be opened: {detail}.',
  LOAN_OVER:
    'This memory is not lent any more: it was released, or the scope of its message has ended. Call claim() on it before that.',
  POOL_UNKNOWN:
    'This loan came without its memory, and this PoolReader has not mapped that memory, or has unmapped it in favour of other pools (maxPools, maxSize). The peer sends the memory again with the next loan.',
  POOL_READER_CLOSED: 'This PoolReader was closed by close().',
  LISTENER_FILE:
    'The socket file {path} was removed, so clients can not connect, and new workers can not change that. Let nothing remove it, and restart the supervisor.',
  LISTENER_UNKNOWN: 'There is no listener {name}. The listeners are: {names}.',
  LISTENER_SERVED:
    'The listener {name} has a server already. Give it to one server; one server may serve several listeners.',
  LISTENER_DISPATCHED:
    'The supervisor decides who accepts the connections of {name} (dispatch), so its listener cannot be handed out. Use worker.listen({name}, server).',
  NOT_SUPERVISED:
    'No Supervisor has started this process. Start it by a Supervisor, or name the listeners for a start by hand in the option standalone.',
  SUPERVISOR_STATE:
    "{operation} can't be called now: this Supervisor is {phase}. It starts once: wait for start(), or make another one.",
  NATIVE_MISSING: 'The native part of passfd is missing ({detail}). {advice}.',
  NATIVE_NONE: 'There is no binary of passfd for {here}; these exist: {there}. {advice}.',
  PLATFORM:
    'Descriptors are passed on Linux only, and this is {system}. Here only joinSupervisor() with its option standalone and "passfd serve" with one process work. Run the rest on Linux.',
  NATIVE_BUNDLED:
    'The native part of passfd is missing ({detail}): passfd was bundled without it. Mark passfd as external in your bundler, or copy the folder node_modules/passfd/prebuilds beside the program that you start: cp -r node_modules/passfd/prebuilds {folder}.',
  NATIVE_FORBIDDEN: 'The native part of passfd ({path}) may not be loaded: {why}. {advice}.',
  NATIVE_UNREADABLE:
    "The native part of passfd can't be read: {detail} ({path}). Give this user the right to read the file and to search its folders.",
  NATIVE_DAMAGED:
    'The native part of passfd ({path}) is damaged: {detail}. Remove node_modules/passfd and reinstall it.',
  NATIVE_PLATFORM: 'The native part of passfd ({path}) was built for {built}; this process runs on {here}. {advice}.',
  NATIVE_VERSION:
    'The native part of passfd ({path}) belongs to version {theirs} of passfd; this one is version {ours}. Reinstall passfd, or build it again ("npm run build:native" in a clone).',
  RUNTIME: '{runtime} ({version}) does not run passfd: it lacks {lack}. Run this program with Node 20.19 or later.',
  METRICS_MISSING:
    'Metrics need prom-client 15, which {detail}. Run "npm install prom-client@15" where your program is.',

  // A datagram: rejected, or dropped
  DATAGRAM_TOO_LARGE:
    'The datagram of {size} bytes is longer than the kernel takes from this socket (SO_SNDBUF; net.core.wmem_max limits it). Send a file, a pipe or shared memory instead.',
  DATAGRAM_CUT:
    'A datagram of {size} bytes or more was dropped, because it is longer than maxMessage ({limit}), or because another process reads this socket, too.',
  UNKNOWN_SENDER:
    'A datagram was dropped. The kernel does not know who sent it, because it came before this socket asked for credentials, and {why}.',

  // systemd
  ACTIVATION:
    'The environment names descriptors of socket activation that are not there: {detail}. Start this program by its unit, or without these variables.',
  ACTIVATED_MISSING:
    'The service manager has given no socket named {name}; it has given: {names}. Set FileDescriptorName={name} in the socket unit, or correct the name.',
  ACTIVATED_NONE:
    'The service manager has given no sockets, and {name} is expected. Start this program by its socket unit, or name a port or path beside activated for a start by hand.',
  ACTIVATED_SEVERAL:
    'The service manager has given {count} sockets named {name}, and one is expected. Give each a unit and a FileDescriptorName= of its own, or take them by activatedSockets().',
  NOTIFY_SOCKET:
    'The address in NOTIFY_SOCKET ({address}) is none that passfd sends to: it must be a path, or begin with "@". Remove the variable if no service manager listens there.',
  NOTIFY_TIMEOUT:
    'The service manager has not handled the notifications of this process within {timeout} ms. Raise the option timeout if it is busy.',
  NOTIFICATION_TOO_LONG:
    'The notification has {size} bytes; systemd ignores one of more than {limit}. Shorten the status or the fields.',
  STORE_REFUSED:
    'The service manager has not taken the descriptor {name}. Raise FileDescriptorStoreMax= in the unit (its default is 0), remove stored descriptors, or let this process notify (NotifyAccess=).',

  // A store: rejected
  STORE_EXISTS: 'The store has an entry named {name} already. Choose another name, or replace it (replace).',
  STORE_LEASED:
    'Process {pid} has taken {name}, and has neither kept it nor given it back. Wait until it does, or ends.',
  STORE_LEASE_OVER:
    'This is not leased by this client any more: its connection to the store was lost, or it was kept or released before. Another process may have it.',
  STORE_FULL: 'The store takes no more: {what}, at most {limit}. Remove something, or raise the quota of the store.',
  STORE_DENIED:
    'User {uid} may not {right} {name} of user {owner}. Use a name of your own, or add a rule to the store (rules).',
  STORE_POLL:
    'None of these descriptors has another end that can hang up ({kinds}): poll is for connected sockets, pipes and terminals. Leave it out.',
  STORE_MOVED: 'A successor has this store now, or nobody. Connect again.',
  STORE_REQUEST: 'The store does not understand the request: {detail}.',
  STORE_UNKNOWN:
    'The store does not know this client any more, so it is not known whether this was done. See what the store has (list()), and decide.',
  STORE_CLIENT_CLOSED: 'This client of the store was closed by close().',
  STORE_UNREACHABLE:
    'The store at {address} could not be reached for {timeout} ms (reconnectTimeout). Start it, or raise the time limit.',

  PEER_PIDFD: 'There is no pidfd of the peer: {detail}.',

  // A request: rejected
  TIMEOUT:
    'No answer came within {timeout} ms{held}. The request was cancelled; raise requestTimeout or timeout if the work takes longer.',
  REMOTE: 'The peer answered with an error: {message}',
  SCHEMA: 'The value does not fit the schema: {issues}',
  UNANSWERED:
    'The request was released without an answer. Return a value, call reply() or fail(), or claim() it to answer later.',
  BUSY: 'The peer has no room: {detail}. Try again later.',
  CANCELLED: 'The requester has cancelled the request.',

  // A supervisor's work: rejected
  WORKER_NOT_READY: 'The worker in slot {slot} (pid {pid}) did not get ready: {detail}.{more}',
  WORKERS_DIE: 'The restart policy has given up slot {slot}: {reason}. See the standard error of the workers.',
  ENTRY: "The workers' program {path} {problem}. options.entry is a file that Node can run.",
  ENTRY_EXECUTABLE:
    'This program is a single executable application, which starts only itself as its worker, without options of Node: options.entry must be process.execPath, and spawn.execArgv undefined. The entry is {path}. Set spawn.args, by which the program knows that it is a worker.',
  CRASH_LOOP:
    'The last {count} workers in slot {slot} have ended soon after their start, the newest one because {reason}. See the standard error of the workers.',
  BEYOND_LIMIT:
    'The worker in slot {slot} is beyond a limit as soon as it is ready: {detail}. It is not replaced for that again until reload() or scale(). Raise the limit.',
  ROUTE_FAILED:
    'The route function of options.balance has thrown: {message}. The next worker in turn gets the connection. The event routeFailed reports each failure.',
  SUPERVISOR_STOPPED: 'The Supervisor was stopped meanwhile.',
  STOP_HANDLER: 'A handler of onStop() has failed: {message}',

  // Warnings
  NOT_ENDED:
    'The supervisor may not signal processes of the worker in slot {slot} (EPERM), so they go on running: {pids}. They belong to another user. End them yourself, or run the supervisor as root.',
  LISTENER_CLOSED:
    'No worker listens at {where} any more after the reload: the supervisor has closed the listener {name}, and closed the connections that waited in it.',
  TOO_MANY_LISTENERS: 'The program listens at more than {limit} addresses. Use fewer, or run it without passfd.',
  SUPERVISOR_SILENT: 'The supervisor has not answered within {timeout} ms: it may be suspended or very busy.',
  PRELOAD_MISSING:
    'The file preload.cjs of passfd is missing: passfd was bundled without it. Mark passfd as external in your bundler.',
  PROGRAM_CLUSTER:
    'This program starts processes by node:cluster, and passfd starts processes already. Remove cluster from the program, or start the program without passfd.',
  PROGRAM_USER:
    'The program has changed its user to {uid} before listen(), and the supervisor answers only the user of its workers. Start the workers as that user: spawn.uid, or passfd serve --uid.',
  PROGRAM_ABSTRACT:
    'The program listens at the abstract name {name}. passfd does not share abstract names, so only the first worker gets it. Use a path.',
  PROGRAM_ENDING:
    'The supervisor has told this worker to end, so its program can not listen any more. Listen when the program starts.',
  PROGRAM_SECOND:
    'Another process of this worker listens already, so this one (pid {pid}) listens without passfd: its address is not shared by the workers. Serve each of them by a passfd serve of its own.',
  PROGRAM_EXCLUSIVE:
    'The program called listen() with exclusive: true. Under passfd the workers share the listener all the same. Remove the option.',
  UNSERVED:
    'Every worker is ready, and none serves the listener {name}: its clients wait for ever. Call worker.listen() before worker.ready(). If this is intended, listen to the event unserved.',

  // The end of a channel
  TAKEOVER_NOT_READY:
    'This {kind} came with the state of the predecessor, which still owns it. It can be used when ready() has resolved.',
  TAKEOVER_LISTENERS:
    'The predecessor (process {pid}) serves listeners that this program neither lists nor drops: {names}. Nothing has moved. Add them to options.listeners, or to options.drop.',
  TAKEOVER_BEGUN: '{operation} is too late: {why}.',
  TAKEOVER_BUSY:
    'Process {pid} is taking over already. Try again later, or wait for your turn: options.busy of the owner.',
  TAKEOVER_MOVED: 'Another process owns the seat by now, or nobody: connect to the takeover path again.',
  TAKEOVER_TOO_LATE:
    'Process {pid} has gone on as the owner, because this took too long. Nothing has moved: take over again.',
  TAKEOVER_OVER: 'The attempt to take over from process {pid} is over: {why}. Nothing has moved: take over again.',
  TAKEOVER_TIMEOUT: 'Process {pid} has kept this candidate waiting for {whom} for {timeout} ms. Nothing has moved.',
  TAKEOVER_UNIT:
    'Process {pid} is the service {unit}, and this candidate {where}: systemd would end it, or start the service again beside it. Send USR2 to the service (run() with its option upgrade, passfd serve with --takeover), or start the successor as a service of its own.',
  TAKEOVER_VERSION:
    'This process and process {pid} do not understand each other: {detail}. Use closer releases of passfd.',
  TAKEOVER_PROTOCOL: 'The other side of the takeover broke the protocol: {detail}.',
  TAKEOVER_SILENT: 'This client of the takeover path has asked for nothing within {timeout} ms.',
  CLOSED: 'The {what} has ended{how}: this was not sent or not answered.',
  DISCONNECTED: 'The peer closed the connection without a goodbye: its process has probably ended.',
  REFUSED: 'The peer sent a goodbye instead of a hello: it does not want this channel.',
  DESTROYED: 'The channel was ended by destroy(), without an error.',
  PEER: 'The peer ended the channel with {code}: {message}',
  CONNECT_TIMEOUT:
    'The listener did not accept the connection within {timeout} ms (handshakeTimeout): its queue is full or its process hangs.',
  HANDSHAKE_TIMEOUT: '{who} within {timeout} ms (handshakeTimeout). {remedy}',
  CLOSE_TIMEOUT: 'close() waited {timeout} ms (closeTimeout) for {whom}{held}; what was left is {fate}.',
  UNAUTHORIZED: 'Process {pid} of user {uid} is not let in: {why}.',
  AUTHORIZE_FAILED: 'authorize() failed, so the peer was not let in.',
  BAD_HELLO: "The peer's hello is wrong: {detail}.",
  BAD_FRAME: 'The peer broke the framing: {detail}.',
  FRAME_TOO_LARGE: 'The peer announced a body of {size} bytes; the limit (maxMessage) is {limit}.',
  FRAME_STALLED: 'The peer began a frame and sent nothing more of it for {timeout} ms (frameTimeout).',
  DESCRIPTOR_COUNT: "The peer's descriptors do not fit its frame: {detail}.",
  DESCRIPTORS_AHEAD: 'The peer sent {count} descriptors ahead of their frames; the protocol allows {limit}.',
  DESCRIPTORS_MISSING: 'A frame came without its descriptors ({count} of {expected}).',
  DESCRIPTORS_TRUNCATED:
    'The kernel dropped descriptors on their way in, most likely at the limit of open files (ulimit -n).',
  DESCRIPTORS_UNTAKEN:
    'The peer has sent {count} descriptors that takeDescriptors() has not been asked for; the limit (maxDescriptors) is {limit}.',
  PACKET_TOO_LARGE: 'The peer sent a packet of more than {limit} bytes (maxPacket): what was too much is lost.',
  CREDIT_EXCEEDED: 'The peer started a message without credit.',
  BAD_TAKEN: 'The peer confirmed {count} descriptors; only {sent} were on their way.',
  BAD_ID: 'The peer used a wrong request id: {detail}.',
  UNDECODABLE: "A body from the peer can't be decoded: {detail}.",
  HANDLER: 'The handler failed on a plain message, and there is no onError: {message}'
} as const

/** Alternative sentences of a code, for cases that its sentence in TABLE does not describe. */
const OTHERS = {
  ACTIVATED_ELSEWHERE:
    'The service manager has given sockets to process {owner} (LISTEN_PID), and this one is process {own}; {name} is expected here. Start Node itself by ExecStart=, and not by npm or a shell.',
  ACTIVATED_TAKEN:
    'The service manager has given a socket named {name}, and another part of this program has taken it. Use what it has returned there.',
  UNKNOWN_OPTION: '{what} has the unknown option {option}{hint}'
} as const

/** Details of a sentence, unless the throwing code gives others. */
const USUAL = {
  DESCRIPTOR_MOVED: { owner: 'it belongs to the channel, then to the peer', remedy: 'Send a dup() to keep one' },
  MESSAGE_TOO_LARGE: { whose: 'the peer (maxMessage)' },
  TOO_MANY_DESCRIPTORS: {
    what: 'The value',
    whose: 'the peer (maxDescriptors)',
    remedy: 'Spread them over several messages'
  },
  HANDSHAKE_TIMEOUT: {
    who: 'The peer sent no hello',
    remedy: 'Is a passfd channel at the other end?'
  },
  CLOSED: { what: 'channel' },
  CLOSE_TIMEOUT: { whom: 'the peer', fate: 'returned', held: '' },
  TIMEOUT: { held: '' }
} as const satisfies Partial<Record<keyof typeof TABLE, Details>>

export type ErrorKey = keyof typeof TABLE
export type ErrorCode = `ERR_PASSFD_${string}`

/** The error as the peer sent it. `data` is the value that the peer attached. */
export interface RemoteError {
  code: string
  message: string
  data?: unknown
}

/** An error of passfd. `code` is stable. `cause` is the error that led to this one. `remote` is the peer's error, if the peer sent one. */
export class PassfdError extends Error {
  readonly code: ErrorCode
  declare readonly remote?: RemoteError
  /** Crosses the channel with `code` and `message` when a handler throws this. */
  declare readonly data?: unknown

  /** @internal Made by passfd from its table of codes. */
  constructor(
    key: ErrorKey,
    details: Details = {},
    extra: { cause?: unknown; remote?: RemoteError; data?: unknown; sentence?: keyof typeof OTHERS } = {}
  ) {
    super(
      fill(
        extra.sentence === undefined ? TABLE[key] : OTHERS[extra.sentence],
        details,
        (USUAL as Partial<Record<ErrorKey, Details>>)[key]
      ),
      extra.cause === undefined ? undefined : { cause: extra.cause }
    )
    this.code = `ERR_PASSFD_${key}`
    if (extra.remote !== undefined) this.remote = extra.remote
    if (extra.data !== undefined) this.data = extra.data
  }

  override get name(): string {
    return 'PassfdError'
  }
}
mark(PassfdError, 'PassfdError')

/**
 * The type of errors in events, callbacks and `closed`: an error of passfd or of the operating system, Node's AbortError, or an error of the
 * program that it passed to `destroy()` or threw. So each may have a `code`.
 */
export type Failure = PassfdError | NodeJS.ErrnoException

/** All codes, for the documentation's test. */
export const errorCodes: readonly ErrorCode[] = Object.keys(TABLE).map((key): ErrorCode => `ERR_PASSFD_${key}`)

/** Errors of the kernel that Node has no name for. */
const UNNAMED = new Map<number, [code: string, description: string]>([
  [ETOOMANYREFS, ['ETOOMANYREFS', 'too many descriptors of this user are under way']]
])

/** An operating system failure as Node shapes it: `code`, `errno`, `syscall`, `address`. `errno` is negative. */
export function systemError(errno: number, syscall: string, address?: string): NodeJS.ErrnoException {
  const [code, description] = getSystemErrorMap().get(errno) ?? UNNAMED.get(errno) ?? [`E${-errno}`, 'unknown error']
  const error: NodeJS.ErrnoException = new Error(
    `${code}: ${description}, ${syscall}${address === undefined ? '' : ` '${address}'`}`
  )
  error.errno = errno
  error.code = code
  error.syscall = syscall
  if (address !== undefined) Object.assign(error, { address })
  return error
}

/** The error for a time limit. It names what the kernel says, if that refuses to send at the moment. `heldBack`: -errno, or 0. */
export function overdueError(key: 'TIMEOUT' | 'CLOSE_TIMEOUT', details: Details, heldBack: number): PassfdError {
  if (heldBack === 0) return new PassfdError(key, details)
  const cause = systemError(heldBack, 'sendmsg')
  return new PassfdError(key, { ...details, held: ` (the kernel refuses to send: ${cause.code})` }, { cause })
}

/**
 * Whatever was thrown, as an Error whose message was a string when it was read. A getter may still answer differently the next
 * time, or throw: read properties of an error that is not passfd's own by `propertyOf` and `textOf`.
 */
export function asError(thrown: unknown): Error {
  try {
    const isError = thrown instanceof Error || types.isNativeError(thrown) // one of another realm is one, too
    // A promise that is resolved to it would ask for its `then`
    if (isError && typeof thrown.message === 'string' && !('then' in thrown)) return thrown
    return new Error(isError ? textOf(thrown) : String(thrown), { cause: thrown })
  } catch {
    return new Error(NOT_SHOWN, { cause: thrown })
  }
}

/** A property of something that the program made: undefined if reading it throws. */
export function propertyOf(given: unknown, name: string): unknown {
  try {
    return (given as Record<string, unknown>)[name]
  } catch {
    return undefined
  }
}

/** Returns the message of a thrown value, or the value as text. It never throws. */
export function textOf(thrown: unknown): string {
  try {
    const message = thrown instanceof Error || types.isNativeError(thrown) ? thrown.message : thrown
    return typeof message === 'string' ? message : String(message)
  } catch {
    return NOT_SHOWN
  }
}

/** Whether it is an error of passfd's own. A Proxy may throw when it is asked for its class. */
export function isPassfdError(thrown: unknown): thrown is PassfdError {
  try {
    return thrown instanceof PassfdError
  } catch {
    return false
  }
}

const NOT_SHOWN = "something was thrown that can't be shown"

/** Returns `result` if it is no failure, else throws it as a system error. */
export function checked(result: number, syscall: string, address?: string): number {
  if (result < 0) throw systemError(result, syscall, address)
  return result
}

/** Node's own AbortError, with the signal's reason as its cause. */
export function abortError(signal: AbortSignal): Error {
  const error = new Error('The operation was aborted', { cause: signal.reason })
  error.name = 'AbortError'
  return Object.assign(error, { code: 'ABORT_ERR' })
}

/** Lead-ins shorter than this are no sentence that would be said twice. */
const LEAD = 10

/**
 * Fills in the sentence. A detail that is itself this sentence, as a copy of passfd at the other end or in this process made it, stands
 * alone: the lead-in is not said twice. A detail that ends with a full stop does not get a second one.
 */
function fill(template: string, details: Details, usual: Details | undefined): string {
  const lead = template.slice(0, template.indexOf('{'))
  let repeated: string | undefined
  const sentence = template.replace(/\{(\w+)\}/g, (place, name: string, at: number) => {
    const text = String(details[name] ?? usual?.[name] ?? '')
    if (lead.length >= LEAD && text.startsWith(lead)) repeated = text
    const plain = lead.length >= LEAD ? text.split(lead).join('') : text // it may stand behind other words
    return template[at + place.length] === '.' ? plain.replace(/[.!?]+$/, '') : plain
  })
  return repeated ?? sentence
}
