/** What a service sends to its manager (sd_notify(3)), and the descriptors that the manager stores for it. */
import { randomUUID } from 'node:crypto'
import { checkInteger, checkType, invalid, shown } from '../base/check.ts'
import { deferred, quiet } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { connect } from '../datagram/open.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { isProbe, PROBE } from '../os/activation.ts'
import { checkedName } from '../os/bind-spec.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { type Notification, textOf } from './notification.ts'

export interface BarrierOptions {
  /** Limits the whole call, in ms. Default 5,000; 0: no limit. */
  timeout?: number
}

export interface StoreOptions extends BarrierOptions {
  /** Lets systemd remove the descriptor when its other end has closed (FDPOLL, systemd 246). Default true. */
  poll?: boolean
}

const BARRIER_OPTIONS = { timeout: true } as const satisfies KnownOptions<BarrierOptions>
const STORE_OPTIONS = { ...BARRIER_OPTIONS, poll: true } as const satisfies KnownOptions<StoreOptions>
const TIMEOUT = 5000
/** How many pipes must be closed before a probe counts as kept. With 4 one of 2,000 refusals by systemd 254 was missed, with 8 none. */
const ROUNDS = 8
const LONGEST_NAME = 107 // of an abstract socket, unix(7)

/**
 * Sends the state of this service to the service manager.
 *
 * Resolves to true when the message has left, and to false, without a try, where no manager listens (no NOTIFY_SOCKET). Messages leave in the
 * order of the calls. The manager does not answer: see `barrier()`.
 *
 * It ignores the message, in silence, if the unit's `NotifyAccess=` does not allow this process to notify; `Type=notify` alone allows the main
 * process. The program need not await it.
 * @throws (rejects) `ERR_PASSFD_INVALID_ARGUMENT`, `ERR_PASSFD_NOTIFICATION_TOO_LONG`, `ERR_PASSFD_NOTIFY_SOCKET`, or the system's error (ENOENT,
 * ECONNREFUSED).
 */
export function notify(notification: Notification): Promise<boolean> {
  return unawaited(() => {
    const text = textOf(notification)
    return () => inTurn(() => send(text))
  })
}

/** Sends a ping of the watchdog, in no order with other messages. While it waits for room at the manager, it does not keep the process running. */
export function ping(): Promise<boolean> {
  return send('WATCHDOG=1', { holds: false })
}

/**
 * Resolves to true when the manager has handled all that this process has sent before (BARRIER, systemd 246): then it may end, and its messages still
 * count. False, without a try, where no manager listens. It delays no later message. The program need not await it.
 * @throws (rejects) `ERR_PASSFD_NOTIFY_TIMEOUT` after `timeout` ms, otherwise as `notify()`.
 */
export function barrier(options: BarrierOptions = {}): Promise<boolean> {
  return unawaited(() => {
    const { timeout = TIMEOUT } = readOptions(options, BARRIER_OPTIONS)
    checkInteger(timeout, 'options.timeout', 0, MAX_TIMEOUT)
    const before = stores
    return () =>
      within(timeout, async signal => {
        await before
        return handled(signal)
      })
  })
}

/**
 * Stores a copy of the descriptor at the manager, which gives it to this service at its next start (`activatedSockets()`), after a crash, too.
 * The caller still owns the descriptor.
 *
 * Several may have one name; systemd keeps one copy of the same open file. Resolves to true when the manager has it, and to false, without a
 * try, where none listens. passfd first stores a pipe for a moment, because systemd does not answer: the store needs room for it. passfd stores
 * one descriptor after the other.
 *
 * The program need not await it. `name`: 1 to 255 printable ASCII characters without a colon; names that begin with `passfd-probe` are passfd's.
 * @throws (rejects) `ERR_PASSFD_STORE_REFUSED` if the manager does not keep it (systemd itself is silent); `ERR_PASSFD_NOTIFY_TIMEOUT` after `timeout` ms:
 * the manager may have it or not; `ERR_PASSFD_DESCRIPTOR_…` if the descriptor is not open; otherwise as `notify()`.
 */
export function storeDescriptor(name: string, descriptor: Descriptor, options: StoreOptions = {}): Promise<boolean> {
  return unawaited(() => {
    const { timeout = TIMEOUT, poll = true } = readOptions(options, STORE_OPTIONS)
    checkInteger(timeout, 'options.timeout', 0, MAX_TIMEOUT)
    checkType(poll, 'poll', 'true or false', value => typeof value === 'boolean')
    checkName(name)
    if (!(descriptor instanceof Descriptor)) throw invalid('descriptor', 'a Descriptor', descriptor)
    // `kind` throws what became of it. At the next start an epoll(7) would look like Node's own: see activation.ts
    if (descriptor.kind === 'epoll') throw invalid('descriptor', 'one of another kind than epoll', descriptor)
    return () => storeCopy(name, descriptor.dup(), timeout, poll)
  })
}

/** passfd uses the copy up. */
async function storeCopy(name: string, copy: Descriptor, timeout: number, poll: boolean): Promise<boolean> {
  const store = async (signal: AbortSignal): Promise<boolean> => {
    signal.throwIfAborted()
    if (addressOf() === undefined) return false
    await checkRoom(name, signal)
    // systemd keeps what it can't poll only if it need not: epoll(7) refuses an O_PATH descriptor
    const polls = poll && !copy.flags.path
    await inTurn(() => send(`FDSTORE=1\nFDNAME=${name}${polls ? '' : '\nFDPOLL=0'}`, { descriptors: [copy], signal }))
    return handled(signal)
  }
  try {
    return await within(timeout, signal => inStoreTurn(() => store(signal)))
  } finally {
    if (!copy.closed) copy.close()
  }
}

/**
 * Removes all descriptors of this name from the manager's store (systemd 236), also those of a `storeDescriptor()` before it. Resolves and rejects as
 * `notify()`; the manager does not report whether there were any.
 */
export function removeStored(name: string): Promise<boolean> {
  return unawaited(() => {
    checkName(name)
    return () => inStoreTurn(() => inTurn(() => send(`FDSTOREREMOVE=1\nFDNAME=${name}`)))
  })
}

function checkName(name: unknown): void {
  if (isProbe(checkedName(name, 'name'))) throw invalid('name', `a name that does not begin with ${PROBE}`, name)
}

/**
 * `prepare` checks arguments: what it throws is an error of the program, and Node reports that if nobody catches the rejection. What it returns begins
 * at once; nobody needs to catch a rejection of that.
 */
function unawaited<T>(prepare: () => () => Promise<T>): Promise<T> {
  try {
    const work = prepare()
    return quiet((async () => work())())
  } catch (error) {
    return Promise.reject(error)
  }
}

let last: Promise<unknown> = Promise.resolve()

/** One message leaves after the other. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = last.then(work)
  last = done.catch(() => {})
  return done
}

let stores: Promise<unknown> = Promise.resolve()

/** One change of the store after the other. The wait for the manager is part of it, so other messages leave meanwhile. */
function inStoreTurn<T>(work: () => T | Promise<T>): Promise<T> {
  const done = stores.then(work)
  stores = done.catch(() => {})
  return done
}

/** Rejects with ERR_PASSFD_NOTIFY_TIMEOUT after `timeout` ms from now on (0: no limit), and ends the work by the signal. */
async function within<T>(timeout: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const over = new AbortController()
  const late = deferred()
  const expire = (): void => {
    const error = new PassfdError('NOTIFY_TIMEOUT', { timeout })
    late.reject(error)
    over.abort(error)
  }
  const timer = timeout === 0 ? undefined : setTimeout(expire, timeout)
  try {
    return await Promise.race([quiet(work(over.signal)), late.promise as Promise<never>])
  } finally {
    clearTimeout(timer)
  }
}

interface SendOptions {
  /** passfd uses them up. */
  readonly descriptors?: readonly Descriptor[]
  /** Gives the message up if it has not left. */
  readonly signal?: AbortSignal
  /** Default true: the process runs on until the message has left. */
  readonly holds?: boolean
}

/** Resolves to false without a manager. */
async function send(text: string, { descriptors = [], signal, holds = true }: SendOptions = {}): Promise<boolean> {
  try {
    signal?.throwIfAborted()
    const address = addressOf()
    if (address === undefined) return false
    await using socket = await connect(address)
    if (!holds) socket.unref()
    await socket.send(text, signal === undefined ? { descriptors } : { descriptors, signal })
    return true
  } finally {
    for (const descriptor of descriptors) if (!descriptor.closed) descriptor.close()
  }
}

function addressOf(): string | { abstract: string } | undefined {
  return addressIn(process.env)
}

/** Throws ERR_PASSFD_NOTIFY_SOCKET. */
export function addressIn({ NOTIFY_SOCKET: given }: NodeJS.ProcessEnv): string | { abstract: string } | undefined {
  if (given === undefined || given === '') return undefined
  const abstract = given.startsWith('@') ? given.slice(1) : ''
  if (abstract !== '' && Buffer.byteLength(abstract) <= LONGEST_NAME) return { abstract }
  if (given.startsWith('/')) return given
  throw new PassfdError('NOTIFY_SOCKET', { address: shown(given) })
}

/** The manager closes the pipe when it has handled what came before. */
async function handled(signal: AbortSignal): Promise<boolean> {
  if (addressOf() === undefined) return false // nothing is opened then, and systems without the shim need none
  signal.throwIfAborted()
  const { readable, writable } = Descriptor.pipe()
  try {
    await inTurn(() => send('BARRIER=1', { descriptors: [writable], signal }))
    await ended(readable, signal)
    return true
  } finally {
    readable.close()
    if (!writable.closed) writable.close()
  }
}

/**
 * Stores the end of a pipe, and removes it again. If this process is killed meanwhile, or gives up, systemd removes it, because nobody can read from the
 * pipe any more. The name is no other process's. A manager that does not keep the pipe closes it; from systemd 254 on a process of its own does that, at
 * any time after the manager has gone on. So further pipes follow, which the manager drops in the same way: when those are closed, the first one would be.
 */
async function checkRoom(name: string, signal: AbortSignal): Promise<void> {
  const { readable, writable } = Descriptor.pipe()
  const probe = probeName()
  try {
    await inTurn(() => send(`FDSTORE=1\nFDNAME=${probe}`, { descriptors: [writable], signal }))
    for (let round = 0; round < ROUNDS; round++) {
      await dropped(signal)
      if (isEnded(readable)) throw new PassfdError('STORE_REFUSED', { name })
    }
    await inTurn(() => send(`FDSTOREREMOVE=1\nFDNAME=${probe}`, { signal }))
  } finally {
    readable.close()
    if (!writable.closed) writable.close()
  }
}

/** Sends a pipe to be stored and forgotten. Resolves when the manager has closed it, whether or not it was stored. */
async function dropped(signal: AbortSignal): Promise<void> {
  const { readable, writable } = Descriptor.pipe()
  const probe = probeName()
  try {
    await inTurn(() => send(`FDSTORE=1\nFDNAME=${probe}`, { descriptors: [writable], signal }))
    await inTurn(() => send(`FDSTOREREMOVE=1\nFDNAME=${probe}`, { signal }))
    await ended(readable, signal)
  } finally {
    readable.close()
    if (!writable.closed) writable.close()
  }
}

function probeName(): string {
  return `${PROBE}-${randomUUID()}`
}

const byte = Buffer.alloc(1)

/** Whether all writers of the pipe have closed it. */
function isEnded(pipe: Descriptor): boolean {
  return native.readNow(pipe.borrow(), byte, 0, 1) === 0
}

/** Resolves when all writers of the pipe have closed it. Rejects with the signal's reason. */
async function ended(pipe: Descriptor, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const { promise, resolve, reject } = deferred()
  const watcher = new Watcher(pipe.borrow(), () => {
    if (isEnded(pipe)) resolve()
  })
  const give = (): void => reject(signal.reason)
  signal.addEventListener('abort', give)
  try {
    await promise
  } finally {
    signal.removeEventListener('abort', give)
    watcher.end()
  }
}
