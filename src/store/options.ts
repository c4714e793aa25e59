/** Options of `openStore()`: their defaults and their checks. */
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkPathText, checkType, invalid } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import type { Peer } from '../descriptor/peer.ts'
import { userIdOf } from '../os/account.ts'
import { native } from '../os/native.ts'
import { MAX_DESCRIPTORS } from './messages.ts'
import { type Amount, type Quotas, quotaOf, type StoreQuota } from './quota.ts'
import { defaultRules, Rules, type StoreRule } from './rules.ts'

/** Where the store listens: a socket file, by default with mode 0600; or a socket that the service manager has given, with the path for a start by hand. */
export type StoreAddress =
  | string
  | { path: string; mode?: number; owner?: number | string; group?: number | string; activated?: string }
  | { activated: string }

export interface OpenStoreOptions {
  /**
   * Takes the place of the process that has this store, with all that it holds, and lets a successor do so: at this path, or with `true` at the path of the
   * store and `.takeover`. That socket has mode 0600. Default: off; then a second store at the same path is refused.
   */
  takeover?: boolean | string
  /** Who may read and write which names. Default: `defaultRules`. */
  rules?: readonly StoreRule[]
  /** Bounds for all users together. Default: half of the limit of open files, 65,536 names, 64 MiB. */
  total?: StoreQuota
  /** Bounds for each user but root and this process's. Default: an eighth of `total`. */
  quota?: StoreQuota
  /** Bounds for single users, by number or by name in /etc/passwd. */
  quotas?: Readonly<Record<string, StoreQuota>>
  /** Limits the open connections. Default 1,024, or a quarter of the limit of open files. */
  maxConnections?: number
  /** Limits the open connections of one user. Default: half of `maxConnections`. */
  maxConnectionsPerUser?: number
  /** Decides who may connect. Default: everybody whom the mode of the socket file lets in, because `rules` decide what each may do. */
  authorize?(peer: Peer): boolean | Promise<boolean>
  /** Ends the wait for a predecessor, with Node's AbortError. */
  signal?: AbortSignal
}

export const STORE_OPTIONS = {
  takeover: true,
  rules: true,
  total: true,
  quota: true,
  quotas: true,
  maxConnections: true,
  maxConnectionsPerUser: true,
  authorize: 'method',
  signal: true
} as const satisfies KnownOptions<OpenStoreOptions>

const ADDRESS = { path: true, mode: true, owner: true, group: true, activated: true } as const

export interface StoreSettings {
  readonly address: Exclude<StoreAddress, string>
  readonly takeover: string | undefined
  readonly rules: Rules
  readonly quotas: Quotas
  readonly maxConnections: number
  readonly maxConnectionsPerUser: number
  readonly maxUnclaimedTotal: number
  /** Descriptors that the clients of one user have been sent and have not confirmed. */
  readonly maxOnTheWay: number
  readonly authorize: (peer: Peer) => boolean | Promise<boolean>
  readonly signal: AbortSignal | undefined
}

const NAMES = 65_536
const BYTES = 64 * 1024 * 1024

/** Throws ERR_PASSFD_INVALID_ARGUMENT, and does nothing. */
export function storeSettings(given: StoreAddress, options: OpenStoreOptions): StoreSettings {
  const address = addressOf(given)
  const files = native.limit()
  const {
    takeover = false,
    rules = defaultRules,
    total: givenTotal = {},
    quota: givenQuota = {},
    quotas: givenQuotas = {},
    maxConnections = Math.max(1, Math.min(1024, Math.floor(files / 4))),
    authorize = () => true,
    signal
  } = readOptions(options, STORE_OPTIONS)
  const { maxConnectionsPerUser = Math.max(1, Math.floor(maxConnections / 2)) } = options
  checkType(authorize, 'authorize', 'a function', value => typeof value === 'function')
  checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
  checkInteger(maxConnections, 'options.maxConnections', 1, 0x7fffffff)
  checkInteger(maxConnectionsPerUser, 'options.maxConnectionsPerUser', 1, 0x7fffffff)
  const total = quotaOf(givenTotal, { descriptors: Math.floor(files / 2), names: NAMES, bytes: BYTES }, 'options.total')
  const eighth = Object.fromEntries(Object.entries(total).map(([what, most]) => [what, Math.floor(most / 8)]))
  return {
    address,
    takeover: takeoverPath(takeover, address),
    rules: new Rules(rules),
    quotas: quotasOf(total, quotaOf(givenQuota, eighth as unknown as Amount, 'options.quota'), givenQuotas),
    maxConnections,
    maxConnectionsPerUser,
    maxUnclaimedTotal: Math.max(1, Math.floor(files / 8)),
    maxOnTheWay: Math.max(2 * MAX_DESCRIPTORS, Math.floor(files / 8)),
    authorize,
    signal
  }
}

function addressOf(given: StoreAddress): Exclude<StoreAddress, string> {
  if (typeof given === 'string') return addressOf({ path: given })
  const address = readOptions(given as { path: string }, ADDRESS, 'address')
  if (address.path === undefined && (given as { activated?: string }).activated !== undefined) return address
  if (typeof address.path !== 'string' || address.path === '') throw invalid('address.path', 'a path', address.path)
  checkPathText(address.path, 'address.path')
  return address
}

function takeoverPath(given: boolean | string, address: { path?: string } | { activated: string }): string | undefined {
  if (given === false) return undefined
  if (given !== true && (typeof given !== 'string' || given === ''))
    throw invalid('options.takeover', 'true, false or a path', given)
  if (given !== true) return given
  if (!('path' in address) || address.path === undefined)
    throw invalid('options.takeover', 'a path, because the store has none', given)
  return `${address.path}.takeover`
}

function quotasOf(total: Amount, quota: Amount, given: Readonly<Record<string, StoreQuota>>): Quotas {
  const single = new Map<number, Amount>()
  const own = process.geteuid!()
  for (const user of [0, own]) single.set(user, total)
  if (typeof given !== 'object' || given === null) throw invalid('options.quotas', 'an object', given)
  for (const [user, one] of Object.entries(given)) {
    const uid = userIdOf(/^\d+$/.test(user) ? Number(user) : user, `options.quotas['${user}']`)
    single.set(uid, quotaOf(one, uid === 0 || uid === own ? total : quota, `options.quotas['${user}']`))
  }
  return { total, of: user => single.get(user) ?? quota }
}
