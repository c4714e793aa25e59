/** Which parts of passfd's sources have run: V8's own counts of blocks, by the inspector. */
import { Session } from 'node:inspector'

interface Range {
  readonly startOffset: number
  readonly endOffset: number
  readonly count: number
}

interface Script {
  readonly url: string
  readonly functions: { readonly functionName: string; readonly ranges: [Range, ...Range[]] }[]
}

/** V8 counts from here on. Make it before the sources are loaded: V8 names all functions of a file only if it has run as a whole since the last look. */
export class Profiler {
  readonly #session = new Session()
  readonly #functions = new Map<string, Script['functions']>()

  constructor() {
    this.#session.connect()
    this.#session.post('Profiler.enable')
    this.start()
  }

  start(): void {
    this.#session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
  }

  /** Code that is not counted is several times as fast. */
  stop(): void {
    this.#session.post('Profiler.stopPreciseCoverage')
  }

  /** What has run since the last call. */
  take(): Script[] {
    let scripts: Script[] = []
    this.#session.post('Profiler.takePreciseCoverage', (error, report) => {
      if (error !== null) throw error
      scripts = (report as unknown as { result: Script[] }).result
    })
    return scripts
  }

  /** Call it when the sources are loaded. */
  loaded(): void {
    for (const { url, functions } of this.take()) this.#functions.set(url, functions.slice(1)) // the first one is the file itself
  }

  functionsOf(url: string): Script['functions'] {
    return this.#functions.get(url) ?? []
  }

  get urls(): Iterable<string> {
    return this.#functions.keys()
  }

  close(): void {
    this.#session.disconnect()
  }
}

/** What has run of one source. */
interface FileCoverage {
  readonly url: string
  /** Characters in functions, and how many of them have run. */
  readonly all: number
  readonly ran: number
  /** Functions that have not run. */
  readonly missed: readonly string[]
}

/** What has run of some sources. */
export class Coverage {
  readonly #profiler: Profiler
  readonly #sources: RegExp
  /** Of each source, for each character: 1 if it has run. V8 reports a block apart only if it ran more or less often than what is around it, so blocks can't be compared. */
  readonly #ran = new Map<string, Uint8Array>()
  /** Where a function or a block begins that has run. */
  readonly #blocks = new Set<string>()

  /** `sources`: the URLs that count. */
  constructor(profiler: Profiler, sources: RegExp) {
    this.#profiler = profiler
    this.#sources = sources
    profiler.start()
    profiler.take()
  }

  /** How many functions and blocks have run. */
  get size(): number {
    return this.#blocks.size
  }

  /** Whether code has run since the last look that had not run before. It counts as seen from now on, unless `only` looks. */
  take(only = false): boolean {
    let isNew = false
    for (const script of this.#profiler.take())
      if (this.#sources.test(script.url) && this.#add(script, only)) isNew = true
    return isNew
  }

  files(): FileCoverage[] {
    const urls = [...this.#profiler.urls].filter(url => this.#sources.test(url))
    return urls.map(url => {
      const seen = this.#ran.get(url) ?? new Uint8Array(0)
      const missed: string[] = []
      const inFunctions = new Uint8Array(
        Math.max(0, ...this.#profiler.functionsOf(url).map(one => one.ranges[0].endOffset))
      )
      for (const { functionName, ranges } of this.#profiler.functionsOf(url)) {
        const { startOffset, endOffset } = ranges[0]
        inFunctions.fill(1, startOffset, endOffset)
        if (
          /^\w*[a-z]/i.test(functionName) &&
          functionName !== '__name' &&
          !seen.subarray(startOffset, endOffset).includes(1)
        )
          missed.push(functionName)
      }
      let [all, ran] = [0, 0]
      for (const [at, isIn] of inFunctions.entries()) {
        all += isIn
        ran += isIn & (seen[at] ?? 0)
      }
      return { url, all, ran, missed }
    })
  }

  #add({ url, functions }: Script, only: boolean): boolean {
    const all = functions.flatMap(({ ranges }) => ranges)
    const end = all.reduce((most, { endOffset }) => Math.max(most, endOffset), 0)
    // The innermost range decides: functions and blocks stand behind those that they are in
    const now = new Uint8Array(end)
    for (const { startOffset, endOffset, count } of all) now.fill(count > 0 ? 1 : 0, startOffset, endOffset)
    const before = this.#ran.get(url) ?? new Uint8Array(0)
    const isNew = now.some((ran, at) => ran > (before[at] ?? 0))
    if (!isNew || only) return isNew
    const seen = new Uint8Array(Math.max(end, before.length))
    seen.set(before)
    for (const [at, ran] of now.entries()) seen[at]! |= ran
    this.#ran.set(url, seen)
    for (const { startOffset, count } of all) if (count > 0) this.#blocks.add(`${url}:${startOffset}`)
    return true
  }
}
