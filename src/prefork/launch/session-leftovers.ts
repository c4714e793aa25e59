/** The other processes of a worker's session, which may outlive the process that the supervisor started. */

import { readdir } from 'node:fs/promises'
import { constants } from 'node:os'
import { setImmediate } from 'node:timers/promises'
import { type Deferred, deferred } from '../../base/deferred.ts'
import { ENOSYS, EPERM } from '../../base/errno.ts'
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import { Watcher } from '../../os/loop.ts'
import { native } from '../../os/native.ts'
import { type ProcessStat, statOf } from '../../os/process-stat.ts'
import { catches } from './procfs.ts'

const { SIGTERM, SIGKILL } = constants.signals
/** Processes that one turn of the event loop examines: about 1 ms. */
const SCANNED_AT_ONCE = 64
/** The interval, in ms, of checks for processes without a pidfd (no descriptor was free): no event reports their end. */
const LOOK_AGAIN = 100

export interface LeftoverLimits {
  /** The time in ms in which they may end without a signal. */
  grace: number
  /**
   * Sends SIGTERM at once to processes that handle it, because no other process has sent it. `'first'`: `grace` ends when these have ended, or if
   * there are none, because the other processes do not know of the stop.
   */
  term: boolean | 'first'
  /** The time from TERM to KILL, in ms. */
  killTimeout: number
}

/** One process. A pidfd always means this process, even if the kernel uses its pid again. */
interface Member {
  readonly stat: ProcessStat
  readonly pidfd: Descriptor | undefined
  readonly watcher: Watcher | undefined
}

/**
 * The processes of a session, or of its first process group, whose leader was reaped. The kernel does not use the leader's pid again while one of
 * them lives (setsid(2), credentials(7)). Zombies count as ended, because their parent reaps them. Processes that called setsid(2) do not belong.
 */
export class SessionLeftovers {
  readonly #leader: number
  readonly #members = new Map<number, Member>()
  /** Processes that this process may not signal (kill(2)). After KILL it does not wait for them. */
  readonly #foreign: number[] = []
  #killing = false
  /** Resolves when a member has ended, or when `kill()` is called. */
  #news: Deferred = deferred()

  private constructor(leader: number) {
    this.#leader = leader
  }

  /** Resolves to undefined if no process is left. `leader`: the pid of a session's leader, which was reaped. */
  static async of(leader: number): Promise<SessionLeftovers | undefined> {
    const found = new SessionLeftovers(leader)
    await found.#look(0)
    return found.#members.size === 0 ? undefined : found
  }

  /**
   * Waits for `grace`, sends TERM, and `killTimeout` later KILL. Resolves when all have ended, to the pids of processes that this process may not
   * kill because they run as another user. It does not wait for these. Call it once.
   */
  async end({ grace: longest, term, killTimeout }: LeftoverLimits): Promise<readonly number[]> {
    const began = performance.now()
    const told = [...this.#members.values()].filter(({ stat }) => term !== false && catches(stat.pid, SIGTERM))
    for (const member of told) send(member, SIGTERM)
    let grace = longest
    let sent = 0
    while (this.#members.size > 0) {
      const passed = performance.now() - began
      if (term === 'first' && !told.some(({ stat }) => this.#members.has(stat.pid))) grace = Math.min(grace, passed)
      const due = this.#killing || passed >= grace + killTimeout ? SIGKILL : passed >= grace ? SIGTERM : 0
      if (due !== sent) for (const member of [...this.#members.values()]) this.#send(member, due)
      sent = due
      const next = due === SIGKILL ? Number.POSITIVE_INFINITY : due === SIGTERM ? grace + killTimeout : grace
      if (this.#members.size > 0) await this.#wait(next - passed)
      if (this.#members.size === 0) await this.#look(sent) // finds processes that they have started meanwhile
    }
    return this.#foreign
  }

  /** Sends KILL at once. */
  kill(): void {
    this.#killing = true
    this.#news.resolve()
  }

  /** Finds new members, and sends them the signal that the others have got (0: none). */
  async #look(signal: number): Promise<void> {
    for (const stat of await sessionOf(this.#leader)) {
      if (this.#members.has(stat.pid) || this.#foreign.includes(stat.pid)) continue
      const member = this.#watch(stat)
      if (member === undefined) continue
      this.#members.set(stat.pid, member)
      if (signal > 0) this.#send(member, signal)
    }
  }

  #send(member: Member, signal: number): void {
    if (send(member, signal) || signal !== SIGKILL) return
    this.#foreign.push(member.stat.pid)
    this.#ended(member.stat.pid)
  }

  #watch(stat: ProcessStat): Member | undefined {
    const number = native.pidfd(stat.pid)
    if (number < 0) return isSame(stat) ? { stat, pidfd: undefined, watcher: undefined } : undefined
    const pidfd = own(number)
    try {
      // Meanwhile the kernel may have given the pid to another process
      if (!isSame(stat)) throw new Error('it has ended')
      return { stat, pidfd, watcher: new Watcher(pidfd.borrow(), () => this.#ended(stat.pid)) }
    } catch {
      pidfd.close()
      return isSame(stat) ? { stat, pidfd: undefined, watcher: undefined } : undefined
    }
  }

  #ended(pid: number): void {
    const member = this.#members.get(pid)
    this.#members.delete(pid)
    member?.watcher?.end()
    member?.pidfd?.close()
    this.#news.resolve()
  }

  /** Waits for `#news`, at most for so many ms. */
  async #wait(milliseconds: number): Promise<void> {
    const unwatched = [...this.#members.values()].filter(({ pidfd }) => pidfd === undefined)
    const limit = Math.min(milliseconds, unwatched.length > 0 ? LOOK_AGAIN : Number.POSITIVE_INFINITY)
    const timer = limit < Number.POSITIVE_INFINITY ? setTimeout(() => this.#news.resolve(), limit) : undefined
    await this.#news.promise
    clearTimeout(timer)
    this.#news = deferred()
    for (const { stat } of unwatched) if (!isSame(stat)) this.#ended(stat.pid)
  }
}

/** Returns false if this process may not signal it, because it runs as another user (kill(2)). */
function send({ stat, pidfd }: Member, signal: number): boolean {
  const result = pidfd === undefined ? ENOSYS : native.signal(pidfd.borrow(), signal)
  if (result !== ENOSYS) return result !== EPERM
  if (!isSame(stat)) return true
  try {
    return process.kill(stat.pid, signal)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EPERM' // otherwise it has ended meanwhile
  }
}

function isSame({ pid, started }: ProcessStat): boolean {
  const now = statOf(pid)
  return now?.lives === true && now.started === started
}

/** The living processes of the session or process group that this ended process has led. */
async function sessionOf(leader: number): Promise<ProcessStat[]> {
  const found: ProcessStat[] = []
  let scanned = 0
  for (const name of await readdir('/proc').catch(() => [])) {
    const pid = Number(name)
    if (!(pid > 0)) continue
    if (++scanned % SCANNED_AT_ONCE === 0) await setImmediate()
    const stat = statOf(pid)
    // The kernel has used its pid again, so no process was left
    if (pid === leader && stat !== undefined) return []
    if (stat?.lives && (stat.session === leader || stat.group === leader)) found.push(stat)
  }
  return found
}
