// A worker of opentelemetry-prefork.ts: each http request has a span, whose parent is the client's if it has sent a `traceparent`.
import { createServer, type RequestListener } from 'node:http'
import { context, propagation, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import { joinSupervisor } from 'passfd/prefork'
import { startTracing } from './opentelemetry-lines.ts'
import { fail } from './opentelemetry-passfd.ts'

const worker = await joinSupervisor()
const provider = startTracing('shop', `worker ${worker.slot}`, ({ operation }) => operation)
const tracer = trace.getTracer('http')

/** @opentelemetry/instrumentation-http does this and more, for all servers of a process. */
function traced(listener: RequestListener): RequestListener {
  return (request, response) => {
    const parent = propagation.extract(context.active(), request.headers)
    const attributes = {
      'http.request.method': request.method!,
      'url.path': request.url!,
      'passfd.slot': worker.slot,
      'passfd.worker': worker.id
    }
    const span = tracer.startSpan(request.method!, { kind: SpanKind.SERVER, attributes }, parent)
    response.once('close', () => {
      span.setAttribute('http.response.status_code', response.statusCode)
      if (response.statusCode >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
      if (!response.writableFinished) fail(span, new Error('the client has gone'))
      span.end()
    })
    context.with(trace.setSpan(parent, span), listener, undefined, request, response)
  }
}

const server = createServer(
  traced(async (request, response) => {
    if (request.url === '/fails') response.statusCode = 500
    const order = await worker.channel.request({ operation: 'count' }) // a child of the span above
    response.end(`order ${order}, slot ${worker.slot}\n`)
  })
)
worker.onStop(() => provider.shutdown()) // when its requests are finished
await worker.listen('http', server)
await worker.ready()
