/** The text of a notification to a service manager (sd_notify(3)): lines of NAME=value. */
import { checkInteger, hasLoneSurrogate, invalid } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'

/** The state of a service, for its manager. One message has one or more of these. */
export interface Notification {
  /** The start, or the reload, is done. systemd waits for it if the unit has `Type=notify`. */
  ready?: true
  /** A reload begins; `ready` ends it. passfd adds the time by CLOCK_MONOTONIC, which `Type=notify-reload` needs (systemd 253). */
  reloading?: true
  /** The service begins to stop. */
  stopping?: true
  /** One line for people, which `systemctl status` shows. */
  status?: string
  /** An errno(3), above 0, of a service that fails. */
  errno?: number
  /** The service's main process from now on. systemd accepts a process of the unit, or any process if root notifies. */
  mainPid?: number
  /** `true`: a ping. `'trigger'`: the manager acts as if no ping had come. */
  watchdog?: true | 'trigger'
  /** The manager expects a ping within each so many ms from now on (WATCHDOG_USEC). */
  watchdogInterval?: number
  /** Extends the limit of the start, reload or stop under way: it ends so many ms from now. Send it again before that time is over. */
  extendTimeout?: number
  /** Which processes may notify from now on, within what the unit allows. */
  notifyAccess?: 'none' | 'all' | 'main' | 'exec'
  /** Further fields, which begin with `X_`. */
  fields?: Readonly<Record<string, string>>
}

const OPTIONS = {
  ready: true,
  reloading: true,
  stopping: true,
  status: true,
  errno: true,
  mainPid: true,
  watchdog: true,
  watchdogInterval: true,
  extendTimeout: true,
  notifyAccess: true,
  fields: true
} as const satisfies KnownOptions<Notification>

/** In bytes: systemd ignores a longer one (NOTIFY_BUFFER_MAX, which is PIPE_BUF). */
const LONGEST = 4096
/** In ms. */
const LONGEST_TIME = 0x7fffffff
const ACCESS = ['none', 'all', 'main', 'exec']
const OWN_FIELD = /^X_[A-Z0-9_]{1,62}$/

/** Returns the text of a notification as the program gives it. Throws ERR_PASSFD_INVALID_ARGUMENT, ERR_PASSFD_NOTIFICATION_TOO_LONG. */
export function textOf(given: Notification): string {
  const what = 'notification'
  const all = readOptions(given, OPTIONS, what)
  const lines: string[] = []
  const add = (name: string, value: string | number | bigint): void => void lines.push(`${name}=${value}`)
  for (const name of ['ready', 'reloading', 'stopping'] as const) {
    const value = all[name]
    if (value === undefined) continue
    if (value !== true) throw invalid(`${what}.${name}`, 'true', value)
    add(name.toUpperCase(), 1)
    // CLOCK_MONOTONIC, clock_gettime(2)
    if (name === 'reloading') add('MONOTONIC_USEC', process.hrtime.bigint() / 1000n)
  }
  const { status, errno, mainPid, watchdog, watchdogInterval, extendTimeout, notifyAccess, fields = {} } = all
  if (status !== undefined) add('STATUS', line(status, `${what}.status`))
  if (errno !== undefined) add('ERRNO', integer(errno, `${what}.errno`, 1, 4095))
  if (mainPid !== undefined) add('MAINPID', integer(mainPid, `${what}.mainPid`, 1, 0x7fffffff))
  if (watchdog !== undefined) {
    if (watchdog !== true && watchdog !== 'trigger') throw invalid(`${what}.watchdog`, "true or 'trigger'", watchdog)
    add('WATCHDOG', watchdog === true ? 1 : 'trigger')
  }
  if (watchdogInterval !== undefined)
    add('WATCHDOG_USEC', integer(watchdogInterval, `${what}.watchdogInterval`, 1, LONGEST_TIME) * 1000)
  if (extendTimeout !== undefined)
    add('EXTEND_TIMEOUT_USEC', integer(extendTimeout, `${what}.extendTimeout`, 1, LONGEST_TIME) * 1000)
  if (notifyAccess !== undefined) {
    if (!ACCESS.includes(notifyAccess)) throw invalid(`${what}.notifyAccess`, ACCESS.join(', '), notifyAccess)
    add('NOTIFYACCESS', notifyAccess)
  }
  if (typeof fields !== 'object' || fields === null) throw invalid(`${what}.fields`, 'an object', fields)
  for (const [name, value] of Object.entries(fields)) {
    if (!OWN_FIELD.test(name)) throw invalid(`the name of a field`, 'X_ and up to 62 of A-Z, 0-9 and _', name)
    add(name, line(value, `${what}.fields.${name}`))
  }
  if (lines.length === 0) throw invalid(what, 'an object with at least one property', given)
  return checkedLength(lines.join('\n'))
}

function integer(value: number, what: string, least: number, most: number): number {
  checkInteger(value, what, least, most)
  return value
}

/** systemd ignores a status that is no UTF-8, and reads a second line as a field. */
function line(value: unknown, what: string): string {
  if (typeof value !== 'string' || /[\0\n\r]/.test(value) || hasLoneSurrogate(value))
    throw invalid(what, 'one line of text', value)
  return value
}

function checkedLength(text: string): string {
  const size = Buffer.byteLength(text)
  if (size > LONGEST) throw new PassfdError('NOTIFICATION_TOO_LONG', { size, limit: LONGEST })
  return text
}

/** In bytes. systemd itself takes 4,096. */
export const MAX_NOTIFICATION = 65_536
const MAX_FIELDS = 64
const KEY = /^[A-Z][A-Z0-9_]{0,63}$/
/** They could end up in a terminal, in a log or in a line of their own. */
const CONTROL = /[\0-\x1f\x7f-\x9f]/g

/**
 * Returns the assignments in a notification: lines of NAME=value. If a name is there twice, the first one counts, as for systemd. passfd ignores lines
 * that assign nothing, and what exceeds 64 KiB or 64 fields. It replaces bytes that are not UTF-8, and control characters, by U+FFFD.
 */
export function parseNotification(bytes: Uint8Array): Map<string, string> {
  const fields = new Map<string, string>()
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, MAX_NOTIFICATION)).toString()
  for (const line of text.split('\n')) {
    const end = line.indexOf('=')
    const name = line.slice(0, Math.max(end, 0))
    if (!KEY.test(name) || fields.has(name)) continue
    if (fields.size === MAX_FIELDS) break
    fields.set(name, line.slice(end + 1).replace(CONTROL, '\ufffd'))
  }
  return fields
}
