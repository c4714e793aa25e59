// Spans of OpenTelemetry for passfd, for opentelemetry.ts and for programs of your own. Call this before the first channel is opened:
//   const contexts = new Contexts()
//   provider.register({ contextManager: contexts })
//   instrumentPassfd(contexts)
// Then each request has a span at both ends, and the requester's is the parent of the handler's. The trace context travels in the request's
// value, under the key `$trace`. The instrumented receiver removes the key before the channel's schema and the handler see the value.
import { AsyncLocalStorage } from 'node:async_hooks'
import diagnostics from 'node:diagnostics_channel'
import {
  type Context,
  context,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace
} from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import type { Message, RequestTrace, ServeTrace } from 'passfd'

const KEY = '$trace'

/** OpenTelemetry's context manager, with a store that can be bound to diagnostics channels. */
export class Contexts extends AsyncLocalStorageContextManager {
  readonly store = new AsyncLocalStorage<Context>()

  override active(): Context {
    return this.store.getStore() ?? ROOT_CONTEXT
  }

  override with<Args extends unknown[], F extends (...args: Args) => ReturnType<F>>(
    active: Context,
    call: F,
    self?: ThisParameterType<F>,
    ...args: Args
  ): ReturnType<F> {
    return this.store.run(active, () => call.apply(self, args))
  }
}

/** `nameOf`: the name of a request's span; by default all have the same. */
export function instrumentPassfd(contexts: Contexts, nameOf: (value: any) => string = () => 'passfd'): void {
  const tracer = trace.getTracer('passfd')
  const spans = new WeakMap<object, Span>()
  /** What has come with messages. */
  const parents = new WeakMap<Message, Context>()
  const requests = diagnostics.tracingChannel<Context, RequestTrace>('passfd:request')
  const handling = diagnostics.tracingChannel<Context, ServeTrace>('passfd:serve')

  // What a subscriber throws ends the process, and a peer may send anything
  const named = (value: unknown): string => {
    try {
      return `${nameOf(value)}`
    } catch {
      return 'passfd'
    }
  }
  const begin = (event: RequestTrace | ServeTrace, value: unknown, kind: SpanKind, parent: Context): Context => {
    const attributes = { 'rpc.system': 'passfd', 'network.transport': 'unix' }
    const span = tracer.startSpan(named(value), { kind, attributes }, parent)
    spans.set(event, span)
    return trace.setSpan(parent, span)
  }
  const end = (event: RequestTrace | ServeTrace): void => {
    const span = spans.get(event)
    spans.delete(event)
    if ('error' in event) fail(span, event.error)
    span?.end()
  }
  const ends = {
    // With a result or an error it was the last event
    end: (event: RequestTrace | ServeTrace) => void (('result' in event || 'error' in event) && end(event)),
    asyncEnd: end
  }

  requests.start.bindStore(contexts.store, event => {
    const active = begin(event, event.value, SpanKind.CLIENT, context.active())
    if (isPlain(event.value)) {
      const carrier = {}
      propagation.inject(active, carrier)
      event.value = { ...event.value, [KEY]: carrier }
    }
    return active
  })
  requests.subscribe(ends as never)

  diagnostics.subscribe('passfd:message:received', event => {
    const { message } = event as { message: Message<any> }
    if (!isPlain(message.value) || !Object.hasOwn(message.value, KEY)) return
    parents.set(message, propagation.extract(ROOT_CONTEXT, textsOf(message.value[KEY])))
    delete message.value[KEY]
  })
  handling.start.bindStore(contexts.store, event => {
    const { message } = event
    const kind = message.isRequest ? SpanKind.SERVER : SpanKind.CONSUMER
    const active = begin(event, message.value, kind, parents.get(message) ?? ROOT_CONTEXT)
    const { signal } = message
    signal.addEventListener('abort', () => spans.get(event)?.addEvent('cancelled', { reason: signal.reason.code }), {
      once: true
    })
    return active
  })
  handling.subscribe(ends as never)
}

/** Records an error in a span. */
export function fail(span: Span | undefined, error: unknown): void {
  const { code, message } = (error instanceof Error ? error : new Error(String(error))) as NodeJS.ErrnoException
  span?.recordException(error as Error)
  span?.setAttribute('error.type', code ?? 'Error')
  span?.setStatus({ code: SpanStatusCode.ERROR, message })
}

/** What propagators expect of a carrier. */
function textsOf(carrier: unknown): Record<string, string> {
  const entries = isPlain(carrier) ? Object.entries(carrier) : []
  return Object.fromEntries(entries.filter(([, value]) => typeof value === 'string')) as Record<string, string>
}

/** Only an object has room for the key. */
function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}
