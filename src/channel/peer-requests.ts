/** Requests from the peer that have no answer yet. */
import type { AsyncContext } from '../base/async-context.ts'
import { PassfdError } from '../base/errors.ts'
import { IdTable } from '../base/id-table.ts'

export class PeerRequest {
  readonly id: number
  /** How many descriptors the reply may carry. */
  readonly allowance: number
  /** The peer does not wait any more, but an answer is still due. */
  cancelled = false
  #controller: AbortController | undefined
  /** The reason why the requester no longer waits. A signal that is first read after that is aborted with it. */
  #reason: Error | undefined

  constructor(id: number, allowance: number) {
    this.id = id
    this.allowance = allowance
  }

  /** Aborted when the peer cancels, or when the channel ends before the answer. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#reason !== undefined) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  cancel(): void {
    this.cancelled = true
    this.end(new PassfdError('CANCELLED'))
  }

  end(reason: Error): void {
    this.#reason ??= reason
    this.#controller?.abort(this.#reason)
  }
}

export class PeerRequests extends IdTable<PeerRequest> {
  /** True while it has no answer. */
  has(request: PeerRequest): boolean {
    return this.get(request.id) === request
  }

  /** Abort listeners run in `context`. */
  endAll(reason: Error, context: AsyncContext): void {
    const all = this.values()
    this.clear()
    for (const request of all) context.run(request.end, request, reason)
  }
}
