/** What becomes of the answer to a request. */
import { bound } from './async-context.ts'
import { type Descriptor, takeShared } from './descriptor.ts'
import type { PassfdError } from './errors.ts'
import type { Schema } from './options.ts'
import { quiet } from './promises.ts'
import type { Settlement } from './requests.ts'
import { validate } from './schema.ts'
import type { Wire } from './wire.ts'

/** The promise of a request, and what becomes of its answer. */
export class ReplySettlement<Reply> implements Settlement {
  readonly promise: Promise<Reply>
  readonly #validate: ((value: unknown) => ReturnType<typeof validate>) | undefined
  readonly #wire: Wire
  #resolve!: (value: Reply) => void
  #reject!: (error: Error) => void

  constructor(schema: Schema<Reply> | undefined, wire: Wire) {
    if (schema !== undefined) this.#validate = bound(value => validate(schema, value))
    this.#wire = wire
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
    quiet(this.promise) // what a schema makes of it may be a promise that rejects
    const result = this.#validate(value)
    if (result instanceof Promise) void result.then(checked => this.#apply(checked, descriptors))
    else this.#apply(result, descriptors)
  }

  fail(error: Error): void {
    quiet(this.promise) // a request that nobody awaits can't end the process
    this.#reject(error)
  }

  #apply(result: { value: unknown } | { error: PassfdError }, descriptors: readonly Descriptor[]): void {
    if ('value' in result) {
      this.#resolve(result.value as Reply)
      return
    }
    // Off the loop, as they are of the peer's choice
    const open = descriptors.filter(descriptor => !descriptor.closed)
    if (open.length > 0)
      this.#wire.discard(
        open.map(descriptor => takeShared(descriptor, 'its schema')),
        undefined
      )
    this.fail(result.error)
  }
}
