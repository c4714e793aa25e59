/** `takeoverStatus()`: asks the owner at a takeover path who serves, who drains and who waits. */
import { setTimeout as later } from 'node:timers/promises'
import { isAbortSignal } from '../base/brand.ts'
import { checkPathText, invalid } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { time } from '../base/timers.ts'
import { connectOwn } from '../channel/connect.ts'
import type { Peer } from '../descriptor/peer.ts'
import { hasNoOwner, isReplaced } from './apply.ts'
import { type Asked, readStatus, type Status } from './messages.ts'

export interface TakeoverStatusOptions {
  /** Decides whether a process may be the owner that answers. Default: a process of the same user, or root. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** Ends the wait for the answer, with Node's AbortError. */
  signal?: AbortSignal
  /** Limits the wait for the answer, in ms. Default 10,000. */
  timeout?: number
}

const STATUS_OPTIONS = {
  authorize: 'method',
  signal: true,
  timeout: true
} as const satisfies KnownOptions<TakeoverStatusOptions>

/** The time to the next try when the owner was just replaced, in ms. */
const PAUSE = 10

/**
 * Asks the process that serves at a takeover path for its status. It begins no attempt, and changes nothing there. Resolves to undefined if no process
 * answers there: the socket file is missing, or its last owner has ended.
 *
 * Rejects with `ERR_PASSFD_HANDSHAKE_TIMEOUT` or `ERR_PASSFD_TIMEOUT` if the owner hangs; `ERR_PASSFD_UNAUTHORIZED` if this process refuses the
 * owner, `ERR_PASSFD_PEER` if the owner refuses this process; EACCES if the file's mode forbids it; an AbortError.
 */
export async function takeoverStatus(path: string, given: TakeoverStatusOptions = {}): Promise<Status | undefined> {
  const options = readOptions(given, STATUS_OPTIONS)
  const { authorize, signal } = options
  if (typeof path !== 'string' || path === '') throw invalid('path', 'a path', path)
  checkPathText(path, 'path')
  if (authorize !== undefined && typeof authorize !== 'function')
    throw invalid('options.authorize', 'a function', authorize)
  if (signal !== undefined && !isAbortSignal(signal)) throw invalid('options.signal', 'an AbortSignal', signal)
  const timeout = time(options.timeout, 'options.timeout', 10_000, 1)
  const deadline = performance.now() + timeout
  for (;;) {
    const left = Math.max(1, Math.ceil(deadline - performance.now()))
    try {
      return await ask(path, left, options)
    } catch (error) {
      if (hasNoOwner(error)) return undefined
      if (!isReplaced(error) || performance.now() >= deadline) throw error
      await later(PAUSE, undefined, signal === undefined ? {} : { signal })
    }
  }
}

async function ask(path: string, timeout: number, options: TakeoverStatusOptions): Promise<Status> {
  const { timeout: _, ...rest } = options
  const channel = await connectOwn<unknown, Asked>(path, { ...rest, handshakeTimeout: timeout, maxDescriptors: 0 })
  try {
    const { signal } = options
    return readStatus(
      await channel.request({ do: 'status' }, { descriptors: 0, timeout, ...(signal === undefined ? {} : { signal }) })
    )
  } finally {
    channel.destroy()
  }
}
