/** Settles a request by its answer. */
import { bound } from '../base/async-context.ts'
import { quiet } from '../base/deferred.ts'
import type { PassfdError } from '../base/errors.ts'
import { validate } from '../base/schema.ts'
import { type Descriptor, endLoan, guardLoan, moveOutShared, restoreNumber } from '../descriptor/descriptor.ts'
import type { Lender } from '../descriptor/lender.ts'
import { heldBy } from './find-descriptors.ts'
import type { Schema } from './options.ts'
import type { Settlement } from './own-requests.ts'
import type { Wire } from './wire.ts'

/** The promise of a request, and the handling of its answer. */
export class ReplySettlement<Reply> implements Settlement {
  readonly promise: Promise<Reply>
  readonly #validate: ((value: unknown) => ReturnType<typeof validate>) | undefined
  readonly #wire: Wire
  readonly #pid: number
  #resolve!: (value: Reply) => void
  #reject!: (error: Error) => void

  /** `pid`: the answering process. */
  constructor(schema: Schema<Reply> | undefined, wire: Wire, pid: number) {
    if (schema !== undefined) this.#validate = bound(value => validate(schema, value))
    this.#wire = wire
    this.#pid = pid
    this.promise = new Promise<Reply>((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  succeed(value: unknown, descriptors: readonly Descriptor[]): void {
    if (this.#validate === undefined) {
      this.#resolve(value as Reply)
      return
    }
    quiet(this.promise) // a schema may return a promise that rejects
    if (descriptors.length > 0) this.#lend(descriptors)
    const result = this.#validate(value)
    if (result instanceof Promise) {
      for (const descriptor of descriptors) guardLoan(descriptor) // it may never settle
      void result.then(checked => this.#apply(checked, descriptors))
    } else this.#apply(result, descriptors)
  }

  fail(error: Error): void {
    quiet(this.promise) // a request whose promise is not awaited can't end the process
    this.#reject(error)
  }

  /** Lends the descriptors to the schema until that has settled, as a message's are lent to its handler. */
  #lend(descriptors: readonly Descriptor[]): void {
    const wire = this.#wire
    const lender: Lender = {
      message: 'reply',
      pid: this.#pid,
      ended: '',
      kept: () => {},
      discard: fd => wire.discard([fd], undefined)
    }
    for (const descriptor of descriptors) restoreNumber(descriptor, moveOutShared(descriptor, ''), lender)
  }

  #apply(result: { value: unknown } | { error: PassfdError }, descriptors: readonly Descriptor[]): void {
    if ('error' in result) {
      this.#end(descriptors)
      this.fail(result.error)
    } else if (descriptors.length === 0) this.#resolve(result.value as Reply)
    else void this.#keep(result.value, descriptors)
  }

  /** Gives the caller the descriptors that the value, or the promised value, holds. */
  async #keep(given: unknown, descriptors: readonly Descriptor[]): Promise<void> {
    try {
      const value = await given
      for (const descriptor of heldBy(value, descriptors)) if (descriptors.includes(descriptor)) descriptor.claim()
      this.#resolve(value as Reply)
    } catch (error) {
      this.#reject(error as Error)
    }
    this.#end(descriptors)
  }

  /** Closes the unclaimed descriptors, off the loop, because the peer chose them. */
  #end(descriptors: readonly Descriptor[]): void {
    const open = descriptors.map(each => endLoan(each, 'its schema refused it or left it out')).filter(fd => fd >= 0)
    if (open.length > 0) this.#wire.discard(open, undefined)
  }
}
