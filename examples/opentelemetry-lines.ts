// For the examples: a provider of OpenTelemetry whose spans are lines of JSON on stdout. In production its exporter is
// OTLPTraceExporter of @opentelemetry/exporter-trace-otlp-http, in a BatchSpanProcessor.
import { resourceFromAttributes } from '@opentelemetry/resources'
import { NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
import { Contexts, instrumentPassfd } from './opentelemetry-passfd.ts'

type Exporter = ConstructorParameters<typeof SimpleSpanProcessor>[0]

const exporter: Exporter = {
  export(spans, done) {
    for (const span of spans) {
      const { name, kind, status, attributes } = span
      const { traceId, spanId } = span.spanContext()
      const events = span.events.map(({ name, attributes }) => ({ name, attributes }))
      const ids = { trace: traceId, id: spanId, parent: span.parentSpanContext?.spanId }
      console.log(
        JSON.stringify({ name, kind, ...ids, status, attributes, events, resource: span.resource.attributes })
      )
    }
    done({ code: 0 })
  },
  async shutdown() {}
}

/** Call `shutdown()` of the result before the process ends, because spans may wait in it. */
export function startTracing(service: string, instance: string, nameOf?: (value: any) => string): NodeTracerProvider {
  const resource = resourceFromAttributes({ 'service.name': service, 'service.instance.id': instance })
  const provider = new NodeTracerProvider({ resource, spanProcessors: [new SimpleSpanProcessor(exporter)] })
  const contexts = new Contexts()
  provider.register({ contextManager: contexts })
  instrumentPassfd(contexts, nameOf)
  return provider
}
