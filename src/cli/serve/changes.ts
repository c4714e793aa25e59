/** `--watch` of `passfd serve`: changes of files become reloads of the supervisor that serves at that time. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Supervisor } from '../../prefork/index.ts'
import type { Report } from '../report.ts'
import type { ServeOptions } from './options.ts'
import { OUTDATED, type Patience, reloader, Watch } from './watch.ts'

export interface Watched {
  readonly options: ServeOptions
  readonly cwd: string
  log(report: Report): void
}

export class Changes implements AsyncDisposable {
  readonly #watched: Watched
  #watch: Watch | undefined
  #change = (): void => {}
  /** Also of a supervisor whose first workers were outdated, and its successor. */
  readonly #patience: Patience = { time: OUTDATED }
  /** A change has come since the last supervisor began. It may have read the files before. */
  #isNew = false

  static async watch(watched: Watched): Promise<Changes> {
    const changes = new Changes(watched)
    const { options, cwd, log } = watched
    const folders = Array.isArray(options.watch) ? options.watch : undefined
    for (const folder of folders ?? [])
      if (!existsSync(resolve(cwd, folder)))
        log({
          event: 'watch',
          level: 'warning',
          text: `${folder} does not exist: it is watched from the time when it does`
        })
    changes.#watch = await Watch.start({
      cwd,
      folders,
      ignored: options.logFile === undefined ? [] : [options.logFile],
      onChange: paths => {
        log({ event: 'changed', level: 'info', text: changedText(paths), facts: { paths } })
        changes.#isNew = true
        changes.#change()
      },
      onError: ({ message }) => log({ event: 'watch', level: 'warning', text: message })
    })
    return changes
  }

  private constructor(watched: Watched) {
    this.#watched = watched
  }

  /** From now on a change reloads this supervisor, which has not started. */
  reload(supervisor: Supervisor): void {
    const { log } = this.#watched
    const { change, started } = reloader(
      supervisor,
      ({ message }) => log({ event: 'reloadFailed', level: 'error', text: `${message} The old code serves on` }),
      ({ slot, pid }) =>
        log({
          event: 'outdated',
          level: 'info',
          text: `Worker ${slot} (pid ${pid}) was still starting when a file changed, so passfd kills it`,
          facts: { slot, pid }
        }),
      this.#patience
    )
    this.#change = change
    this.#isNew = false
    supervisor.once('started', started)
  }

  /** From now on a change calls this function. */
  onChange(change: () => void): void {
    this.#change = change
  }

  /** Whether a change has come since the last supervisor began. */
  get hasNew(): boolean {
    return this.#isNew
  }

  /** Resolves at the first change since the last supervisor began. */
  async next(): Promise<void> {
    this.#change = () => {}
    if (!this.#isNew) await this.#watch!.next()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#watch?.close()
  }
}

/** 'server.js has changed', 'server.js and 2 others have changed'. */
export function changedText([first = '', ...others]: readonly string[]): string {
  if (others.length === 0) return `${first} has changed`
  return `${first} and ${others.length === 1 ? others[0] : `${others.length} others`} have changed`
}
