/** What tracers learn of requests and handlers: two tracing channels of node:diagnostics_channel, in the order of Node's own tracePromise(). */

import diagnostics from 'node:diagnostics_channel'
import type { Message } from './message.ts'

/** The object of all events of one `channel.request()`: `tracing:passfd:request:start`, `…:end`, `…:asyncStart`, `…:asyncEnd`, `…:error`. */
export interface RequestTrace {
  readonly channel: Message['channel']
  /** The program's value. At `start` a subscriber may replace it: passfd sends what is here afterwards. It must not change the program's object. */
  value: unknown
  /** The answer, which the program owns. */
  result?: unknown
  /** The reason why there is no answer. An AbortError, or ERR_PASSFD_TIMEOUT: the requester has cancelled. */
  error?: unknown
}

/** The object of all events of one call of a `serve` handler: `tracing:passfd:serve:start`, and so on. */
export interface ServeTrace {
  readonly channel: Message['channel']
  readonly message: Message<any>
  /** What the handler has returned, or its promise has resolved to. */
  result?: unknown
  /** What the handler has thrown, or its promise has rejected with. */
  error?: unknown
}

export const requests = diagnostics.tracingChannel<unknown, RequestTrace>('passfd:request')
export const handling = diagnostics.tracingChannel<unknown, ServeTrace>('passfd:serve')

type Tracing<Trace extends object> = diagnostics.TracingChannel<unknown, Trace>

/** Calls `request` with the value that the subscribers have left, in the stores that they have bound. Returns its promise. */
export function traceRequest<Reply>(
  channel: Message['channel'],
  value: unknown,
  request: (value: any) => Promise<Reply>
): Promise<Reply> {
  const trace: RequestTrace = { channel, value }
  return within(requests, trace, () => {
    const promise = request(trace.value)
    settle(requests, trace, promise)
    return promise
  })
}

/** Calls the handler in the stores that the subscribers have bound. Returns its result; of a thenable, a promise of the same. */
export function traceHandler(handler: (message: any) => unknown, message: Message<any>): unknown {
  const trace: ServeTrace = { channel: message.channel, message }
  return within(handling, trace, () => {
    const result = handler(message)
    if (!isThenable(result)) {
      trace.result = result
      return result
    }
    const promise = Promise.resolve(result) // the `then` of an object of the program is called once
    settle(handling, trace, promise)
    return promise
  })
}

/** Unlike base/brand, this does not accept a function with a `then`: that is an answer, which the encoder rejects as it does any function. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

function within<Trace extends { error?: unknown }, Result>(
  tracing: Tracing<Trace>,
  trace: Trace,
  call: () => Result
): Result {
  return tracing.start.runStores(trace, () => {
    try {
      return call()
    } catch (error) {
      trace.error = error
      tracing.error.publish(trace)
      throw error
    } finally {
      tracing.end.publish(trace)
    }
  })
}

/** The subscribers hear of the end before the program does. */
function settle<Trace extends { result?: unknown; error?: unknown }>(
  tracing: Tracing<Trace>,
  trace: Trace,
  promise: Promise<unknown>
): void {
  const end = (): void => {
    tracing.asyncStart.publish(trace)
    tracing.asyncEnd.publish(trace)
  }
  void promise.then(
    result => {
      trace.result = result
      end()
    },
    error => {
      trace.error = error
      tracing.error.publish(trace)
      end()
    }
  )
}
