/** The owner of a socket file. */
import { readFileSync } from 'node:fs'
import { checkInteger, describe } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'

/** As users give it. */
export interface FileOwner {
  /** The user whom the socket file belongs to: a number, or a name in /etc/passwd. Default: this process's. Needs CAP_CHOWN (chown(2)). */
  owner?: number | string
  /** Its group: a number, or a name in /etc/group. Default: this process's. A process without CAP_CHOWN may name a group of its own. */
  group?: number | string
}

/** A socket file's permissions and owner. `undefined`: as the kernel sets it. */
export interface FileAccess {
  readonly mode: number
  readonly owner: number | undefined
  readonly group: number | undefined
}

/** Throws ERR_PASSFD_INVALID_ARGUMENT for an owner or group of something that is no file. `why` names that. */
export function checkNoOwner({ owner, group }: FileAccess, why: string): void {
  if (owner === undefined && group === undefined) return
  throw new PassfdError('INVALID_ARGUMENT', {
    what: 'owner and group',
    expected: `undefined for ${why}`,
    actual: `${owner ?? 'none'} and ${group ?? 'none'}`
  })
}

/** The highest user or group (credentials(7)); the one above means none. */
const MAX_ID = 0xfffffffe

/**
 * Looks names up in /etc/passwd and /etc/group only: other sources of the system's (nsswitch.conf(5): LDAP, …) can't be asked without its C library.
 * `prefix`: what users call the object that it stands in. Throws ERR_PASSFD_INVALID_ARGUMENT, or the system's error if the file can't be read.
 */
export function accessOf({ owner, group }: FileOwner, mode: number, prefix = ''): FileAccess {
  return {
    mode,
    owner: owner === undefined ? undefined : idOf(owner, `${prefix}owner`, 'user', '/etc/passwd'),
    group: group === undefined ? undefined : idOf(group, `${prefix}group`, 'group', '/etc/group')
  }
}

/** A user's number, which may be given as a name in /etc/passwd. Throws as `accessOf()`. */
export function userIdOf(given: unknown, what: string): number {
  return idOf(given, what, 'user', '/etc/passwd')
}

function idOf(given: unknown, what: string, kind: string, file: string): number {
  if (typeof given !== 'string') {
    if (typeof given !== 'number')
      throw new PassfdError('INVALID_ARGUMENT', {
        what,
        expected: `a number, or the name of a ${kind}`,
        actual: describe(given)
      })
    checkInteger(given, what, 0, MAX_ID)
    return given
  }
  const line = readFileSync(file, 'utf8')
    .split('\n')
    .map(entry => entry.split(':'))
    .find(([name]) => name === given && given !== '')
  const id = Number(line?.[2] || Number.NaN)
  if (!Number.isInteger(id) || id < 0 || id > MAX_ID)
    throw new PassfdError('INVALID_ARGUMENT', {
      what,
      expected: `the name of a ${kind} in ${file}, or a number (names of other sources are not looked up)`,
      actual: describe(given)
    })
  return id
}
