/** Which parts of passfd's sources have run: V8's own counts of blocks, by the inspector. */
import { Session } from 'node:inspector'

interface Script {
  readonly url: string
  readonly functions: { readonly ranges: { startOffset: number; endOffset: number; count: number }[] }[]
}

export class Coverage {
  readonly #session = new Session()
  readonly #sources: RegExp
  readonly #seen = new Set<string>()

  /** `sources`: the URLs that count. */
  constructor(sources: RegExp) {
    this.#sources = sources
    this.#session.connect()
    this.#session.post('Profiler.enable')
    this.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
    this.take()
  }

  /** How many blocks have run since the beginning. */
  get size(): number {
    return this.#seen.size
  }

  /** The blocks that have run since the last call, and not before. They count as seen from now on, unless `only` looks. */
  take(only = false): string[] {
    const fresh: string[] = []
    this.#session.post('Profiler.takePreciseCoverage', (error, report) => {
      if (error !== null) throw error
      for (const { url, functions } of (report as unknown as { result: Script[] }).result) {
        if (!this.#sources.test(url)) continue
        for (const { ranges } of functions)
          for (const { startOffset, endOffset, count } of ranges) {
            const block = `${url}:${startOffset}:${endOffset}`
            if (count > 0 && !this.#seen.has(block)) fresh.push(block)
          }
      }
    })
    if (!only) for (const block of fresh) this.#seen.add(block)
    return fresh
  }

  close(): void {
    this.#session.disconnect()
  }
}
