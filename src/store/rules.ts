/** Which user may read and write which names. */
import { checkType, invalid } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { userIdOf } from '../os/account.ts'
import { checkPattern, matches } from './names.ts'

/** Lets a user read or write entries. What no rule lets a user do is denied. */
export interface StoreRule {
  /** The user: a number, a name in /etc/passwd, or `'*'` for every user. */
  user: number | string
  /** Whose entries: a user, or `'*'` for those of every user. Default: the user's own. */
  owner?: number | string
  /** A name, or the beginning of names and a `*`. Default: every name. */
  names?: string
  /** Lets the user copy, list and watch. Default false. */
  read?: boolean
  /** Lets the user put and remove, and with `read` take. Default false. */
  write?: boolean
}

export type Right = 'read' | 'write'

const RULE = {
  user: true,
  owner: true,
  names: true,
  read: true,
  write: true
} as const satisfies KnownOptions<StoreRule>

/** The rules without the option `rules`: each user reads and writes the entries of its own, and root all. */
export const defaultRules: readonly StoreRule[] = Object.freeze([
  Object.freeze({ user: '*', read: true, write: true }),
  Object.freeze({ user: 0, owner: '*', read: true, write: true })
])

/** `undefined`: every user; as an owner: the user itself. */
interface Checked {
  readonly user: number | undefined
  readonly owner: number | 'own' | undefined
  readonly names: string | undefined
  readonly read: boolean
  readonly write: boolean
}

export class Rules {
  readonly #rules: readonly Checked[]

  /** Throws ERR_PASSFD_INVALID_ARGUMENT. */
  constructor(given: readonly StoreRule[], what = 'options.rules') {
    if (!Array.isArray(given)) throw invalid(what, 'a list of rules', given)
    this.#rules = given.map((rule, index) => checkedRule(rule, `${what}[${index}]`))
  }

  /** Whether the user may do this with the entry `name` of `owner`. */
  allow(right: Right, user: number, owner: number, name: string): boolean {
    return this.#rules.some(
      rule => rule[right] && concerns(rule, user, owner) && (rule.names === undefined || matches(rule.names, name))
    )
  }

  /** Whether there are names of `owner` with which the user may do this. */
  allowSome(right: Right, user: number, owner: number): boolean {
    return this.#rules.some(rule => rule[right] && concerns(rule, user, owner))
  }
}

function concerns({ user, owner }: Checked, by: number, of: number): boolean {
  if (user !== undefined && user !== by) return false
  return owner === undefined || (owner === 'own' ? by : owner) === of
}

function checkedRule(given: StoreRule, what: string): Checked {
  const { user, owner, names, read = false, write = false } = readOptions(given, RULE, what)
  for (const [name, value] of Object.entries({ read, write }))
    checkType(value, name, 'true or false', one => typeof one === 'boolean')
  return {
    user: user === '*' ? undefined : userIdOf(user, `${what}.user`),
    owner: owner === undefined ? 'own' : owner === '*' ? undefined : userIdOf(owner, `${what}.owner`),
    names: names === undefined ? undefined : checkPattern(names, `${what}.names`),
    read,
    write
  }
}
