/** Why a worker has ended, in words: from what was seen of it before, and from how its process ended. */
import { exitReason } from '../launch/exit-status.ts'

/** A process's end: one of the two is null. Both are if it could not be started. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** How far the worker had come. */
export interface Progress {
  /** Its process was started. */
  readonly started: boolean
  /** It had become ready. */
  readonly booted: boolean
  /** The supervisor has told it to end. */
  readonly told: boolean
  /** Why it was to end, if the supervisor has said so. */
  readonly reason: string | undefined
  /** What it had to do to become ready, as in "it has not …". */
  readonly missing: string
  /** Which file Node was not allowed to read, if that is the only thing that is known. */
  unreadable(code: number | null): string | undefined
}

export class ExitCause {
  /** Why the process could not be started. */
  startFailure: string | undefined
  /** What the supervisor has killed it for. */
  killedFor: string | undefined
  /** The last signal for its own process was refused: it runs as another user, and we are not root (kill(2)). */
  denied = false
  /** Which time limit of its stop it has exceeded. */
  overdue: string | undefined
  /** The exception that it is about to end by. */
  exception: string | undefined
  /** Why the supervisor has refused what it said; it may end before the kill. */
  refused: string | undefined
  /** The failure that it has reported by sd_notify(3). */
  errno: string | undefined

  /** In words: of this end, not of what happened before. */
  describe({ code, signal }: Exit, { started, booted, told, reason, missing, unreadable }: Progress): string {
    if (!started) return this.startFailure ?? 'it could not be started'
    if (this.denied && code === null && signal === null)
      return 'it runs as another user, so that the supervisor may not end it (EPERM)'
    const how = exitReason(code, signal)
    const why = this.#seen(code, signal) ?? reason ?? unreadable(code)
    if (why !== undefined) return `${why} (${how})`
    return code === 0 && !booted && !told ? `it ${how} and has not ${missing}` : `it ${how}`
  }

  #seen(code: number | null, signal: NodeJS.Signals | null): string | undefined {
    if (signal === 'SIGKILL' && this.killedFor !== undefined) return this.killedFor
    return this.exception ?? this.refused ?? this.overdue ?? (code === null || code === 0 ? undefined : this.errno)
  }
}
