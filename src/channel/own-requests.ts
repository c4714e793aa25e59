/** Requests that this side has made and that wait for their answer. */

import { whenAborted } from '../base/abort-signals.ts'
import { abortError } from '../base/errors.ts'
import { IdTable } from '../base/id-table.ts'
import { keepAlive } from '../base/timers.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'

/** What the channel does with an answer. */
export interface Settlement {
  succeed(value: unknown, descriptors: readonly Descriptor[]): void
  fail(error: Error): void
}

export class OwnRequest {
  id = 0
  /** How many descriptors the reply may carry. */
  allowance = 0
  /** The requester has given up. The peer's answer is still due, and is discarded when it arrives. */
  cancelled = false
  /** The time limit, by performance.now(), in ms. Infinity: none. */
  readonly deadline: number
  readonly timeout: number
  readonly #settlement: Settlement
  readonly #signal: AbortSignal | undefined
  #forgetSignal: () => void = nothing

  constructor(settlement: Settlement, timeout: number, signal: AbortSignal | undefined) {
    this.#settlement = settlement
    this.timeout = timeout
    this.deadline = timeout === 0 ? Number.POSITIVE_INFINITY : performance.now() + timeout
    this.#signal = signal
  }

  succeed(value: unknown, descriptors: readonly Descriptor[]): void {
    this.#forgetSignal()
    this.#settlement.succeed(value, descriptors)
  }

  fail(error: Error): void {
    this.#forgetSignal()
    this.#settlement.fail(error)
  }

  /** `cancel` is called once, at once if the signal is aborted already: a getter of the request's own value may have done that. */
  onAbort(cancel: (error: Error) => void): void {
    const signal = this.#signal
    if (signal === undefined) return
    const onAbort = (): void => cancel(abortError(signal))
    if (signal.aborted) onAbort()
    else this.#forgetSignal = whenAborted(signal, onAbort)
  }
}

export class OwnRequests {
  /** The sum of the descriptors that the replies may carry. */
  allowance = 0
  readonly #pending = new IdTable<OwnRequest>()
  readonly #cancel: (request: OwnRequest) => void
  readonly #overdue: (timeout: number) => Error
  #lastId = 0
  #timer: NodeJS.Timeout | undefined
  #timerAt = Number.POSITIVE_INFINITY

  /** `cancel` sends a cancel to the peer, or withdraws a request that has not left. `overdue` makes the error for a time limit. */
  constructor(cancel: (request: OwnRequest) => void, overdue: (timeout: number) => Error) {
    this.#cancel = cancel
    this.#overdue = overdue
  }

  get size(): number {
    return this.#pending.size
  }

  get(id: number): OwnRequest | undefined {
    return this.#pending.get(id)
  }

  nextId(): number {
    do this.#lastId = (this.#lastId + 1) >>> 0
    while (this.#pending.get(this.#lastId) !== undefined)
    return this.#lastId
  }

  add(request: OwnRequest): void {
    this.#pending.add(request.id, request)
    this.allowance += request.allowance
    request.onAbort(error => this.#giveUp(request, error))
    if (request.deadline < this.#timerAt && !request.cancelled) this.#arm(request.deadline)
  }

  /** Removes the request from the table, because its answer has come or can't come any more. */
  settle(id: number): OwnRequest | undefined {
    const request = this.#pending.get(id)
    if (request === undefined) return undefined
    this.#pending.delete(id)
    this.allowance -= request.allowance
    return request
  }

  failAll(error: Error): void {
    clearTimeout(this.#timer)
    for (const request of this.#pending.values()) {
      this.settle(request.id)
      if (!request.cancelled) request.fail(error)
    }
  }

  #giveUp(request: OwnRequest, error: Error): void {
    if (request.cancelled || this.#pending.get(request.id) !== request) return
    request.cancelled = true
    request.fail(error)
    this.#cancel(request)
  }

  /** One timer for all requests, set to the earliest deadline. When it fires, it is set to the next one. */
  #arm(at: number): void {
    clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = setTimeout(() => this.#expire(), Math.min(Math.max(1, at - performance.now()), 0x7fffffff))
    keepAlive(this.#timer, false)
  }

  #expire(): void {
    this.#timerAt = Number.POSITIVE_INFINITY
    const now = performance.now()
    let next = Number.POSITIVE_INFINITY
    for (const request of this.#pending.values()) {
      if (request.cancelled) continue
      if (request.deadline <= now) this.#giveUp(request, this.#overdue(request.timeout))
      else next = Math.min(next, request.deadline)
    }
    if (next < this.#timerAt) this.#arm(next)
  }
}

function nothing(): void {}
