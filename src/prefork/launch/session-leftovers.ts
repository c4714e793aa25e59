/** What is left of a worker when the process that was started has ended: the others of its session. */

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
/** Processes that are looked at in one turn of the event loop: about 1 ms. */
const SCANNED_AT_ONCE = 64
/** In ms: for processes whose end no event can tell, as there is no descriptor left for a pidfd. */
const LOOK_AGAIN = 100

export interface LeftoverLimits {
  /** They have this long by themselves, in ms. */
  grace: number
  /**
   * Those that handle SIGTERM get it at once, before `grace`: nobody can have sent it to them. `'first'`: when these have ended, or if there are none,
   * `grace` is over, because nobody who is left knows of the stop.
   */
  term: boolean | 'first'
  /** From TERM to KILL, in ms. */
  killTimeout: number
}

/** One process. The pidfd keeps its number from meaning another process. */
interface Member {
  readonly stat: ProcessStat
  readonly pidfd: Descriptor | undefined
  readonly watcher: Watcher | undefined
}

/**
 * The processes of a session, or of its first process group, whose leader has ended and was collected. The kernel gives the leader's number
 * to nobody while one of them is there (setsid(2), credentials(7)). Zombies count as ended: to collect them is their parent's task. A process that
 * has called setsid(2) itself is none of them.
 */
export class SessionLeftovers {
  readonly #leader: number
  readonly #members = new Map<number, Member>()
  /** Those that we may not signal (kill(2)). They are waited for no longer than to KILL. */
  readonly #foreign: number[] = []
  #killing = false
  /** Something has happened: a member has ended, or all are to be killed. */
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
   * Resolves when all have ended: by themselves within `grace`, else by TERM, and KILL `killTimeout` later. To be called once. Those that the
   * kernel did not let us kill, as they run as another user, are not waited for: it resolves to their pids.
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
      if (this.#members.size === 0) await this.#look(sent) // what they have started meanwhile
    }
    return this.#foreign
  }

  /** KILL, at once. */
  kill(): void {
    this.#killing = true
    this.#news.resolve()
  }

  /** Finds members that are not known yet; they get the signal that the others have got (0: none). */
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
      // It may be another process's number by now
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

  /** Until there is news, or so many ms have passed. */
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

/** Returns false if we may not signal it: it runs as another user, and we are not root (kill(2)). */
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
    // The kernel has used its number again: then no process was left
    if (pid === leader && stat !== undefined) return []
    if (stat?.lives && (stat.session === leader || stat.group === leader)) found.push(stat)
  }
  return found
}
