/** How connections come to workers: the option `balance`, its default and its check. */
import { checkInteger, invalid } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import type { WorkerInfo } from './control/worker-info.ts'

/** A connection that waits for its worker: the argument of `route`. */
export interface Routed {
  /** The name of its listener. */
  readonly listener: string
  /** Its first bytes, up to `maxHead`. The supervisor has peeked at them, and the worker reads them again. Valid during the call. */
  readonly head: Buffer
  /** Whether no more bytes will be added to `head`: the client has ended, or `maxHead` or `headTimeout` is reached. */
  readonly ended: boolean
  /** The client's IP address. Undefined for Unix sockets. */
  readonly remoteAddress?: string
}

/**
 * Chooses a worker for a connection by its first bytes.
 *
 * It returns the worker's slot; or `'more'`, to be called again with more bytes; or undefined for round-robin. Round-robin also applies if that
 * worker is not ready. The supervisor calls it for the first request of a connection only. So later requests on a keep-alive connection stay
 * with the same worker.
 */
export type Route = (connection: Routed, workers: readonly WorkerInfo[]) => number | 'more' | undefined

/** Lets the supervisor choose the worker of each connection. For an address or a function the supervisor accepts, and sends each connection on. */
export interface Dispatch {
  /**
   * `'round-robin'`: in turn. `'least-connections'`: the worker with the fewest open connections. `'address'`: by the client's IP address, so a
   * client stays with its slot (Unix clients: round-robin). Or a function that reads the first bytes.
   */
  dispatch: 'round-robin' | 'least-connections' | 'address' | Route
  /** Limits the first bytes that a function gets. Default 16 KiB, at most 1 MiB. */
  maxHead?: number
  /** Limits the wait for these bytes, in ms. Then the supervisor calls the function a last time. Default 5,000. */
  headTimeout?: number
}

/** The policy that distributes connections to workers. */
export type Balance = 'per-worker' | 'shared' | Dispatch

const DISPATCH_OPTIONS = {
  dispatch: 'method',
  maxHead: true,
  headTimeout: true
} as const satisfies KnownOptions<Dispatch>

const MAX_HEAD = 1024 * 1024
const RULES = ['round-robin', 'least-connections', 'address']

/** Whether the supervisor counts the waiting connections, and tells workers how many to accept. */
export function areCounted(balance: Balance): boolean {
  return typeof balance === 'object' && (balance.dispatch === 'round-robin' || balance.dispatch === 'least-connections')
}

/** Throws ERR_PASSFD_INVALID_ARGUMENT. `foreign`: the workers run a command. */
export function balanceOf(balance: unknown, foreign: boolean): Balance {
  if (balance === undefined) return foreign ? 'shared' : 'per-worker'
  if (balance === 'per-worker' || balance === 'shared') return balance
  const isObject = typeof balance === 'object' && balance !== null
  const {
    dispatch,
    maxHead = 16384,
    headTimeout = 5000
  } = isObject ? readOptions(balance as Dispatch, DISPATCH_OPTIONS, 'options.balance') : ({} as Dispatch)
  if (typeof dispatch !== 'function' && !RULES.includes(dispatch))
    throw invalid(
      'options.balance',
      "'per-worker', 'shared' or { dispatch: 'round-robin', 'least-connections', 'address' or a function }",
      balance
    )
  if (foreign) throw invalid('options.balance', "'shared' or 'per-worker' for a command", balance)
  checkInteger(maxHead, 'options.balance.maxHead', 1, MAX_HEAD)
  checkInteger(headTimeout, 'options.balance.headTimeout', 1, MAX_TIMEOUT)
  return { dispatch, maxHead, headTimeout }
}
