/** The async contexts (async_hooks) in which the program's functions are called. */
import { AsyncLocalStorage, AsyncResource } from 'node:async_hooks'
import type { EventEmitter } from 'node:events'
import { throwLater } from './throw-later.ts'

/**
 * Before AsyncContextFrame (Node 24) a resource holds the stores of AsyncLocalStorage. A store that `enterWith` sets in a callback stays in the
 * resource for the next callback in it. Flags of Node switch this, so it can't be derived from the version.
 */
const RESOURCES_HOLD_STORES = '_propagate' in AsyncLocalStorage.prototype

/** Returns the resource, which must be destroyed after its use. */
let renew: (context: AsyncContext) => AsyncResource | undefined

/**
 * The async context in which a channel, socket or server was opened, or `serve` was called: `run` calls a function of the program's in it.
 * What the function changes by `enterWith` is over when it returns: no other call of `run` sees it. It costs about 30 ns a call.
 */
export class AsyncContext {
  /** No code has run in it, so it holds the stores of the context in which this object was made. */
  #untouched: AsyncResource
  readonly #type: string
  /** #untouched is no longer the first resource, which the later ones name as their trigger. */
  #renewed = false
  #ended: AsyncResource | undefined

  /** `type`: the resource type that async hooks report. */
  constructor(type: string) {
    this.#type = type
    this.#untouched = new AsyncResource(type)
  }

  /** Calls `callback` with `self` as `this` and one argument; gives what it returns, or throws what it throws. */
  run<Argument, Result>(callback: (argument: Argument) => Result, self?: unknown, argument?: Argument): Result {
    const given = argument as Argument
    if (!RESOURCES_HOLD_STORES) return this.#untouched.runInAsyncScope(callback, self, given)
    return this.#untouched.runInAsyncScope(callOnce<Argument, Result>, this, this, callback, self, given)
  }

  /** Emits an event, whose listeners run in this context. */
  emit(emitter: EventEmitter<any>, event: string | symbol, ...args: unknown[]): boolean {
    if (emitter.listenerCount(event) === 0) return emitter.emit(event, ...args)
    return this.run(() => emitter.emit(event, ...args))
  }

  /** As `emit()`, but what a listener throws is thrown later, so that it does not disturb the caller. */
  tell(emitter: EventEmitter<any>, event: string | symbol, ...args: unknown[]): boolean {
    try {
      return this.emit(emitter, event, ...args)
    } catch (error) {
      throwLater(error)
      return true
    }
  }

  /** Reports to async hooks that it has ended. It can still be used; then the garbage collector reports the rest. */
  end(): void {
    if (this.#ended !== undefined) return
    this.#ended = this.#untouched
    this.#ended.emitDestroy()
  }

  static {
    renew = context => {
      const resource = context.#untouched
      const trigger = context.#renewed ? resource.triggerAsyncId() : resource.asyncId()
      context.#renewed = true
      context.#untouched = new AsyncResource(context.#type, trigger)
      return resource === context.#ended ? undefined : resource
    }
  }
}

/** Runs in the resource that was untouched until now. The next one is made of it before the program has it. */
function callOnce<Argument, Result>(
  context: AsyncContext,
  callback: (argument: Argument) => Result,
  self: unknown,
  argument: Argument
): Result {
  const resource = renew(context)
  try {
    return callback.call(self, argument)
  } finally {
    resource?.emitDestroy()
  }
}

/** The function, to be called once, in the context in which this was called. */
export function bound<Arguments extends unknown[], Result>(
  callback: (...args: Arguments) => Result
): (...args: Arguments) => Result {
  const resource = new AsyncResource('PASSFD_CALLBACK')
  return (...args) => {
    try {
      return resource.runInAsyncScope(callback, undefined, ...args)
    } finally {
      resource.emitDestroy()
    }
  }
}
