/** Names of entries, and patterns that match them. */
import { invalid } from '../base/check.ts'

/** As systemd takes them for its own store (FDNAME_MAX, sd_pid_notify_with_fds(3)), without `*`, which patterns need. */
const NAME = /^[\x20-\x29\x2b-\x39\x3b-\x7e]{1,255}$/
const PATTERN = /^[\x20-\x29\x2b-\x39\x3b-\x7e]{0,255}\*?$/

export function isName(name: unknown): name is string {
  return typeof name === 'string' && NAME.test(name)
}

/** Returns the name. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function checkName(name: unknown, what = 'name'): string {
  if (isName(name)) return name
  throw invalid(what, "1 to 255 printable ASCII characters without ':' and '*'", name)
}

export function isPattern(pattern: unknown): pattern is string {
  return typeof pattern === 'string' && pattern !== '' && PATTERN.test(pattern)
}

/** Returns the pattern: a name, or the beginning of names and a `*`. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function checkPattern(pattern: unknown, what: string): string {
  if (isPattern(pattern)) return pattern
  throw invalid(what, "a name, or the beginning of names and '*'", pattern)
}

export function matches(pattern: string, name: string): boolean {
  return pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern
}
