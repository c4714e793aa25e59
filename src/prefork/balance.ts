/** How connections come to workers: the option `balance`, its default and its check. */
import { checkInteger, invalid } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { MAX_TIMEOUT } from '../base/timers.ts'
import type { WorkerInfo } from './control/worker-info.ts'

/** A connection that waits for its worker, as `route` sees it. */
export interface Routed {
  /** The name of the listener that it came to. */
  readonly listener: string
  /** Its first bytes, up to `maxHead`. They are looked at, not consumed: the worker reads them again. Valid during the call. */
  readonly head: Buffer
  /** Nothing follows `head`: the client has ended, or `maxHead` or `headTimeout` is reached. */
  readonly ended: boolean
  /** The client's IP address. Undefined for Unix sockets. */
  readonly remoteAddress?: string
}

/**
 * Chooses a worker for a connection by its first bytes: returns its slot; `'more'` to be asked again when more bytes have come; or
 * undefined for round-robin, which also happens when that worker is not ready. It is asked once for a connection, so a
 * keep-alive client's later requests stay with the worker that got its first one.
 */
export type Route = (connection: Routed, workers: readonly WorkerInfo[]) => number | 'more' | undefined

/** The dispatch policy: the supervisor says which worker gets a connection. By an address or a function it accepts, and sends each one on. */
export interface Dispatch {
  /**
   * `'round-robin'`: in turn; `'least-connections'`: who has the fewest; `'address'`: by the client's IP address, so that a client stays with
   * its slot (Unix clients: round-robin); or a function that looks at the first bytes.
   */
  dispatch: 'round-robin' | 'least-connections' | 'address' | Route
  /** With a function: how many first bytes it may ask for. Default 16 KiB, at most 1 MiB. */
  maxHead?: number
  /** With a function: how long it waits for them, in ms; then it is asked a last time. Default 5,000. */
  headTimeout?: number
}

/** How connections come to workers. */
export type Balance = 'per-worker' | 'shared' | Dispatch

const DISPATCH_OPTIONS = {
  dispatch: 'method',
  maxHead: true,
  headTimeout: true
} as const satisfies KnownOptions<Dispatch>

const MAX_HEAD = 1024 * 1024
const RULES = ['round-robin', 'least-connections', 'address']

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
