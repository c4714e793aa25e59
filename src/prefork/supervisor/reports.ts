/** Reports of a supervisor: events, and process warnings for events of trouble that have no listener. */
import type { EventEmitter } from 'node:events'
import type { AsyncContext } from '../../base/async-context.ts'
import { asError, type Failure, PassfdError } from '../../base/errors.ts'
import type { ListenAddress } from '../../serving/bound-socket.ts'
import { type Report, warnOf } from '../../takeover/place.ts'
import type { SupervisorEvents } from './commands.ts'

/** Events that become process warnings if `run()` runs the supervisor and they have no listener. */
type Warned = 'gaveUp' | 'reloadFailed' | 'crashLoop' | 'beyondLimit'

export class Reports {
  readonly #emitter: EventEmitter<SupervisorEvents>
  readonly #context: AsyncContext
  /** Returns how many of an event's listeners are passfd's own and reach no program. */
  readonly #unheard: (name: keyof SupervisorEvents) => number
  /** `run()` runs the supervisor, so it owns the process. */
  #runs = false
  #routeWarned = false

  constructor(
    emitter: EventEmitter<SupervisorEvents>,
    context: AsyncContext,
    unheard: (name: keyof SupervisorEvents) => number
  ) {
    this.#emitter = emitter
    this.#context = context
    this.#unheard = unheard
  }

  /** From now on an event of trouble that has no listener becomes a process warning. */
  warnOfTrouble(): void {
    this.#runs = true
  }

  /** Nothing that a listener throws disturbs the supervisor. */
  emit<Name extends keyof SupervisorEvents>(name: Name, ...values: SupervisorEvents[Name]): void {
    this.#context.tell(this.#emitter, name, ...(values as unknown[]))
  }

  /** Emits the event. If `run()` runs the supervisor, and the event has no listener, it emits a process warning. */
  warn(name: Warned, error: Error): void {
    // A program that listens for 'exit' notices the crash loop, too
    const heard = this.#isHeard(name) || (name === 'crashLoop' && this.#isHeard('exit'))
    this.emit(name, error)
    if (!heard) process.emitWarning(error)
  }

  acceptError(error: Error, listener: string): void {
    const heard = this.#isHeard('acceptError')
    this.emit('acceptError', error as Failure, listener)
    if (!heard) process.emitWarning(error)
  }

  /** The warning comes once: a route function may fail for every connection. */
  routeFailed(cause: unknown): void {
    const heard = this.#isHeard('routeFailed')
    this.emit('routeFailed', cause)
    if (heard || this.#routeWarned) return
    this.#routeWarned = true
    process.emitWarning(new PassfdError('ROUTE_FAILED', { message: asError(cause).message }, { cause }))
  }

  /** Most likely a worker's program has forgotten to call `listen()`, and its clients would wait without an answer. */
  unserved(name: string): void {
    if (this.#emitter.listenerCount('unserved') > 0) this.emit('unserved', name)
    else process.emitWarning(new PassfdError('UNSERVED', { name }))
  }

  listenerClosed(name: string, address: ListenAddress): void {
    if (this.#emitter.listenerCount('listenerClosed') > 0) this.emit('listenerClosed', name, address)
    else {
      const where = 'path' in address ? address.path : `${address.address} port ${address.port}`
      process.emitWarning(new PassfdError('LISTENER_CLOSED', { name, where }))
    }
  }

  takeover(report: Report): void {
    if (this.#emitter.listenerCount('takeoverReport') > 0) this.emit('takeoverReport', report)
    else warnOf(report)
  }

  #isHeard(name: Warned | 'exit' | 'acceptError' | 'routeFailed'): boolean {
    return !this.#runs || this.#emitter.listenerCount(name) > this.#unheard(name)
  }
}
