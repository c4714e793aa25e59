/** What a service says to its manager (sd_notify(3)), and the descriptors that the manager stores for it. */
import { checkInteger, checkType, invalid } from '../base/check.ts'
import { deferred } from '../base/deferred.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import { connect } from '../datagram/open.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { PROBE } from '../os/activation.ts'
import { checkedName } from '../os/bind-spec.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { type Notification, textOf } from './notification.ts'

export interface BarrierOptions {
  /** Limits the wait, in ms. Default 5,000; 0: no limit. */
  timeout?: number
}

export interface StoreOptions extends BarrierOptions {
  /** Lets systemd remove the descriptor when its other end has closed (FDPOLL, systemd 246). Default true. */
  poll?: boolean
}

const BARRIER_OPTIONS = { timeout: true } as const satisfies KnownOptions<BarrierOptions>
const STORE_OPTIONS = { ...BARRIER_OPTIONS, poll: true } as const satisfies KnownOptions<StoreOptions>
const TIMEOUT = 5000

/**
 * Tells the service manager the state of this service. Resolves to true when the message has left, and to false, without a try, where no manager
 * listens (no NOTIFY_SOCKET). Messages leave in the order of the calls. The manager does not answer: see `barrier()`. It ignores the message, in
 * silence, if the unit's `NotifyAccess=` does not allow this process to notify; `Type=notify` alone allows the main process.
 * @throws (rejects) `ERR_PASSFD_INVALID_ARGUMENT`, `ERR_PASSFD_NOTIFICATION_TOO_LONG`, or the system's error (ENOENT, ECONNREFUSED).
 */
export async function notify(notification: Notification): Promise<boolean> {
  const text = textOf(notification)
  return inTurn(() => send(text))
}

/**
 * Resolves to true when the manager has handled all that this process has told it (BARRIER, systemd 246): then it may end, and its messages still
 * count. False, without a try, where no manager listens.
 * @throws (rejects) `ERR_PASSFD_NOTIFY_TIMEOUT` after `timeout` ms.
 */
export async function barrier(options: BarrierOptions = {}): Promise<boolean> {
  const { timeout = TIMEOUT } = readOptions(options, BARRIER_OPTIONS)
  checkInteger(timeout, 'options.timeout', 0, MAX_TIMEOUT)
  return inTurn(() => handled(timeout))
}

/**
 * Has the manager keep a copy of the descriptor, which this service gets at its next start by `activatedSockets()`, after a crash, too. The caller still
 * owns the descriptor. Several may have one name; systemd keeps one copy of the same open file. Resolves to true when the manager has it, and to
 * false, without a try, where none listens. To know that, it first stores a pipe for a moment: the store needs room for it.
 * `name`: 1 to 255 printable ASCII characters without a colon.
 * @throws (rejects) `ERR_PASSFD_STORE_REFUSED` if the manager does not take it (systemd itself is silent); `ERR_PASSFD_NOTIFY_TIMEOUT`;
 * `ERR_PASSFD_DESCRIPTOR_…` if the descriptor is not open; `ERR_PASSFD_INVALID_ARGUMENT`.
 */
export async function storeDescriptor(
  name: string,
  descriptor: Descriptor,
  options: StoreOptions = {}
): Promise<boolean> {
  const { timeout = TIMEOUT, poll = true } = readOptions(options, STORE_OPTIONS)
  checkInteger(timeout, 'options.timeout', 0, MAX_TIMEOUT)
  checkType(poll, 'poll', 'true or false', value => typeof value === 'boolean')
  checkName(name)
  if (!(descriptor instanceof Descriptor)) throw invalid('descriptor', 'a Descriptor', descriptor)
  const copy = descriptor.dup()
  try {
    return await inTurn(async () => {
      if (addressOf() === undefined) return false
      await checkRoom(name, timeout)
      await send(`FDSTORE=1\nFDNAME=${name}${poll ? '' : '\nFDPOLL=0'}`, [copy])
      return handled(timeout)
    })
  } finally {
    if (!copy.closed) copy.close()
  }
}

/**
 * Removes all descriptors of this name from the manager's store (systemd 236). Resolves as `notify()`; the manager does not say whether there were any.
 */
export async function removeStored(name: string): Promise<boolean> {
  checkName(name)
  return inTurn(() => send(`FDSTOREREMOVE=1\nFDNAME=${name}`))
}

function checkName(name: unknown): void {
  if (checkedName(name, 'name') === PROBE)
    throw invalid('name', `another one than ${PROBE}, which passfd itself uses`, name)
}

let last: Promise<unknown> = Promise.resolve()

/** One after the other, because what one says may be about the one before. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = last.then(work)
  last = done.catch(() => {})
  return done
}

/** Resolves to false without a manager. Uses the descriptors up. */
async function send(text: string, descriptors: readonly Descriptor[] = []): Promise<boolean> {
  try {
    const address = addressOf()
    if (address === undefined) return false
    await using socket = await connect(address)
    await socket.send(text, { descriptors })
    return true
  } finally {
    for (const descriptor of descriptors) if (!descriptor.closed) descriptor.close()
  }
}

function addressOf(): string | { abstract: string } | undefined {
  const { NOTIFY_SOCKET: given } = process.env
  if (given === undefined || given === '') return undefined
  if (given.startsWith('@')) return { abstract: given.slice(1) }
  if (given.startsWith('/')) return given
  throw new PassfdError('NOTIFY_SOCKET', { address: given })
}

/** The manager closes the pipe when it has handled what came before. */
async function handled(timeout: number): Promise<boolean> {
  if (addressOf() === undefined) return false // nothing is opened then, and systems without the shim need none
  const { readable, writable } = Descriptor.pipe()
  try {
    await send('BARRIER=1', [writable])
    await ended(readable, timeout)
    return true
  } finally {
    readable.close()
    if (!writable.closed) writable.close()
  }
}

async function checkRoom(name: string, timeout: number): Promise<void> {
  const { readable, writable } = Descriptor.pipe()
  const forget = `FDSTOREREMOVE=1\nFDNAME=${PROBE}`
  try {
    await send(forget) // of a process that was killed here
    await send(`FDSTORE=1\nFDNAME=${PROBE}\nFDPOLL=0`, [writable])
    await handled(timeout)
    // A manager that has not taken the pipe has closed it by now
    if (isEnded(readable)) throw new PassfdError('STORE_REFUSED', { name })
    await send(forget)
  } finally {
    readable.close()
    if (!writable.closed) writable.close()
  }
}

const byte = Buffer.alloc(1)

/** Whether all writers of the pipe have closed it. */
function isEnded(pipe: Descriptor): boolean {
  return native.readNow(pipe.borrow(), byte, 0, 1) === 0
}

/** Rejects with ERR_PASSFD_TIMEOUT after `timeout` ms, if that is more than 0. */
async function ended(pipe: Descriptor, timeout: number): Promise<void> {
  const { promise, resolve, reject } = deferred()
  const watcher = new Watcher(pipe.borrow(), () => {
    if (isEnded(pipe)) resolve()
  })
  const timer =
    timeout === 0 ? undefined : setTimeout(() => reject(new PassfdError('NOTIFY_TIMEOUT', { timeout })), timeout)
  try {
    await promise
  } finally {
    clearTimeout(timer)
    watcher.end()
  }
}
