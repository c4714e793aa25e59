/** Describes why a worker has ended, by its exit status and by what the supervisor noted before. */
import { exitReason } from '../launch/exit-status.ts'

/** The end of a process: code or signal is null. Both are null if it could not be started. */
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
  /** The reason that the supervisor had for ending it. */
  readonly reason: string | undefined
  /** What it has not done to become ready: completes "it has not …". */
  readonly missing: string
  /** Returns the file that Node was not allowed to read, if nothing else explains the end. */
  unreadable(code: number | null): string | undefined
}

export class ExitCause {
  /** Why the process could not be started. */
  startFailure: string | undefined
  /** Why the supervisor has killed it. */
  killedFor: string | undefined
  /** The kernel refused the last signal, because the process runs as another user (kill(2)). */
  denied = false
  /** Which time limit of its stop it has exceeded. */
  overdue: string | undefined
  /** The uncaught exception that will end it. */
  exception: string | undefined
  /** Why the supervisor refused its message. It may end before it is killed. */
  refused: string | undefined
  /** The failure that it has reported by sd_notify(3). */
  errno: string | undefined

  /** Describes this end of the process, as the end of a sentence. */
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
