/** The state that a seat's program gives to a successor: frozen, given away, or taken back. */
import { AsyncContext } from '../base/async-context.ts'
import { RESOLVED } from '../base/deferred.ts'
import { asError, PassfdError } from '../base/errors.ts'
import type { StatePart } from './messages.ts'
import type { FreezeContext } from './owner.ts'
import type { Report } from './place.ts'
import { closeState, GivenState } from './state.ts'

export interface ReadyOptions<State = unknown> {
  /**
   * Returns the state for this process's own successor: any value that a message can carry, with any number of Descriptors and Connections.
   *
   * When it is called, all servers have stopped accepting; open connections are served on. passfd sends copies of the descriptors and closes the
   * originals when the successor serves. From its return until `thaw`, or the end of the process, the program doesn't touch what it has given.
   */
  freeze?(context: FreezeContext): State | Promise<State>
  /**
   * The attempt has failed, and this process accepts again. `state` is the very value that `freeze` has returned, and everything in it is open and
   * the program's. If it fails, passfd closes the state and reports `'thaw'`.
   */
  thaw?(state: State): unknown
}

/** What a freeze calls on the seat. */
export interface SeatStateHooks {
  /** Stops accepting, so that accepting again needs no new descriptor. If it throws the system's error, the servers accept as before. */
  suspend(): void
  accept(): void
  report(report: Report): void
}

type Freeze = NonNullable<ReadyOptions['freeze']>

export class SeatState {
  readonly #hooks: SeatStateHooks
  #freeze: Freeze | undefined
  #thaw: ReadyOptions['thaw']
  /** The result of `freeze`, for the present attempt. */
  #given: GivenState | undefined
  /** Settles when `freeze`, and `thaw` after a failed attempt, are done. */
  #busy: Promise<void> = RESOLVED

  constructor(hooks: SeatStateHooks) {
    this.#hooks = hooks
  }

  /** `freeze` and `thaw` run in the async context of this call. */
  use({ freeze, thaw }: ReadyOptions): void {
    this.#freeze = freeze && inContext(freeze)
    this.#thaw = thaw && inContext(thaw)
  }

  /** Resolves to copies, which the caller owns. A program without `freeze` has no state, and accepts as before. */
  async freeze(context: FreezeContext): Promise<readonly StatePart[]> {
    const freeze = this.#freeze
    if (freeze === undefined) return new GivenState(undefined).parts
    // An earlier attempt's freeze and thaw may still run
    const freezing = this.#busy.then(() => this.#freezeNow(freeze, context))
    this.#busy = freezing.then(
      () => {},
      () => {}
    )
    return freezing
  }

  async #freezeNow(freeze: Freeze, context: FreezeContext): Promise<readonly StatePart[]> {
    const { signal, successor } = context
    const { pid } = successor
    const isOver = (): PassfdError =>
      new PassfdError('TAKEOVER_OVER', { pid, why: 'it has ended before freeze() had returned' })
    if (signal.aborted) throw isOver()
    let returned: { value: unknown } | undefined
    try {
      this.#hooks.suspend()
      returned = { value: await freeze(context) }
      if (signal.aborted) throw isOver()
      this.#given = new GivenState(returned.value)
      return this.#given.parts
    } catch (error) {
      // If the attempt has ended, the seat accepts already
      if (!signal.aborted) this.#hooks.accept()
      this.#hooks.report({ code: 'failed', message: `Process ${pid} gets no state: ${asError(error).message}`, pid })
      if (returned !== undefined) await this.#giveBack(returned.value)
      throw error
    }
  }

  /** Called if the attempt has failed after `freeze` was called. The value of a `freeze` that still runs comes back when it returns. */
  takeBack(): void {
    const given = this.#given
    this.#given = undefined
    if (this.#freeze !== undefined) this.#hooks.accept()
    if (given !== undefined) this.#busy = this.#giveBack(given.value)
  }

  /** Called when the successor has the state. */
  letGo(): void {
    this.#given?.close()
    this.#given = undefined
  }

  async #giveBack(value: unknown): Promise<void> {
    try {
      await this.#thaw?.(value)
    } catch (error) {
      closeState(value)
      const { message } = asError(error)
      this.#hooks.report({ code: 'thaw', message: `thaw() has failed, and the state was closed: ${message}` })
    }
  }
}

/** Each call is in the async context of this one. */
function inContext<A, R>(callback: (argument: A) => R): (argument: A) => R {
  const context = new AsyncContext('PASSFD_SEAT')
  return argument => context.run(callback, undefined, argument)
}
