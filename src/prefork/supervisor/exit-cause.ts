/** Describes why a worker has ended, by its exit status and by what the supervisor noted before. */
import { exitReason, isStop } from '../launch/exit-status.ts'

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
  /** It was to stop when it ended: by the supervisor's order, or by its own wish. */
  readonly stopping: boolean
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
  /** Why the supervisor refused its message, or reaches it no more. It may end before it is killed. */
  refused: string | undefined
  /** The failure that it has reported by sd_notify(3). */
  errno: string | undefined

  /**
   * Whether this end is that of a stop, in time and without a failure. A program may end by the signal that it was sent, or by the exit code of a
   * shell for that (143: `next start`, npm). Another code is the program's report of a failure.
   */
  isStop(exit: Exit, { started, stopping }: Progress): boolean {
    const { killedFor, denied, overdue, exception, refused } = this
    if (!started || !stopping || denied) return false
    return (
      [killedFor, overdue, exception, refused].every(each => each === undefined) && (exit.code === 0 || isStop(exit))
    )
  }

  /** Describes this end of the process, as the end of a sentence. */
  describe(exit: Exit, progress: Progress): string {
    const { code, signal } = exit
    const { started, booted, told, reason, missing, unreadable } = progress
    if (!started) return this.startFailure ?? 'it could not be started'
    if (this.denied && code === null && signal === null)
      return 'it runs as another user, so that the supervisor may not end it (EPERM)'
    // That a wrapper was killed is a guess of exitReason(), and wrong of a program that has handled the signal
    const how = this.isStop(exit, progress) && code !== null ? `exited with code ${code}` : exitReason(code, signal)
    const why = this.#seen(code, signal) ?? reason ?? unreadable(code)
    if (signal === 'SIGKILL' && why !== undefined && why === this.killedFor) return `${why}, so passfd killed it`
    if (why !== undefined) return `${why} (${how})`
    return code === 0 && !booted && !told ? `it ${how} and has not ${missing}` : `it ${how}`
  }

  #seen(code: number | null, signal: NodeJS.Signals | null): string | undefined {
    if (signal === 'SIGKILL' && this.killedFor !== undefined) return this.killedFor
    return this.exception ?? this.refused ?? this.overdue ?? (code === null || code === 0 ? undefined : this.errno)
  }
}
