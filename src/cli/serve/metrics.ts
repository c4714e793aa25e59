/** `--metrics`: the server's metrics by HTTP, from the process of `passfd serve`. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type BindSpec, Descriptor } from '../../index.ts'
import { removeUnused } from '../../os/socket-name.ts'
import { METRICS_CONTENT_TYPE, type Supervisor } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'

/** Prometheus and a few people. */
const MOST_CONNECTIONS = 64
/** How often it tries an address that the server before this one has, in ms, and how long. */
const RETRY = 50
const RETRIES = 200

export interface MetricsOptions {
  readonly address: BindSpec
  readonly supervisor: Pick<Supervisor, 'metrics' | 'on' | 'once'>
  /** The server before this one may have the address until this one serves. */
  readonly replaces: boolean
  /** Reports that the metrics are not there, a sentence without its full stop. */
  report(text: string): void
}

/**
 * Answers `GET /metrics` with OpenMetrics text, until `close()` or until a successor serves. Throws if prom-client is not installed (exit code 1) or
 * if the address can't be had (exit code 73). If another server has it, and this one is to replace that, it answers when this one serves.
 */
export async function serveMetrics(options: MetricsOptions): Promise<Metrics> {
  const { supervisor, replaces } = options
  await supervisor.metrics() // prom-client may be missing
  const metrics = new Metrics(options)
  const isThere = await metrics.open(!replaces)
  if (!isThere) supervisor.once('started', () => void metrics.openLater())
  supervisor.once('superseded', () => void metrics.close())
  return metrics
}

export class Metrics {
  readonly #options: MetricsOptions
  readonly #server: Server
  #closed = false

  constructor(options: MetricsOptions) {
    this.#options = options
    this.#server = createServer((request, response) => void answer(options.supervisor, request, response))
    this.#server.maxConnections = MOST_CONNECTIONS
    this.#server.unref()
  }

  /** Resolves to false if the address is in use and that is no error. */
  async open(isError: boolean): Promise<boolean> {
    const { address } = this.#options
    try {
      const listener = await Descriptor.bind(address)
      if (this.#closed) listener.close()
      else this.#server.listen(listener.toListenHandle()).unref()
      return true
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      if (code === 'EADDRINUSE' && !isError) return false
      throw new CommandError(EXIT.cantCreate, `The metrics can't be served: ${message}`, 'Check --metrics', {
        cause,
        ...(code === undefined ? {} : { code })
      })
    }
  }

  /** The server before this one closes the address a moment after this one serves. */
  async openLater(): Promise<void> {
    try {
      for (let attempt = 1; !this.#closed && !(await this.open(attempt === RETRIES)); attempt++)
        await new Promise(resolve => setTimeout(resolve, RETRY))
    } catch (error) {
      this.#options.report((error as Error).message)
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#server.close()
    this.#server.closeIdleConnections()
    const { path } = this.#options.address as { path?: string }
    if (path !== undefined) await removeUnused(path)
  }
}

async function answer(
  supervisor: Pick<Supervisor, 'metrics'>,
  { method, url = '' }: IncomingMessage,
  response: ServerResponse
): Promise<void> {
  const end = (status: number, type: string, text: string): void => {
    response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) })
    response.end(method === 'HEAD' ? undefined : text)
  }
  if (method !== 'GET' && method !== 'HEAD') return end(405, 'text/plain', 'GET /metrics\n')
  if (url.split('?')[0] !== '/metrics') return end(404, 'text/plain', 'GET /metrics\n')
  try {
    end(200, METRICS_CONTENT_TYPE, await supervisor.metrics())
  } catch (error) {
    end(500, 'text/plain', `${(error as Error).message}\n`)
  }
}
