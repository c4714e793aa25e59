/** `--watch`: reloads when a file of the program changes. The ports stay open, and what can't start never replaces what serves. */
import { once } from 'node:events'
import { type Stats, statSync } from 'node:fs'
import { basename, extname, relative, resolve, sep } from 'node:path'
import { watch as watchPaths } from 'chokidar'
import type { RestartPolicy, Supervisor, SupervisorOptions, WorkerInfo } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'

export interface WatchOptions {
  /** Folders whose files are watched, all of them. Without any: the programs' files (PROGRAMS) in `cwd`. */
  readonly folders?: readonly string[] | undefined
  /** The base of relative paths. */
  readonly cwd: string
  /** Further files, of any name: of `--env-file`, for example. */
  readonly files?: readonly string[] | undefined
  /** Files that this process or its workers write, such as the log. */
  readonly ignored?: readonly string[] | undefined
  /** Called when files have changed and no further change has come for a moment: their paths from `cwd`, sorted. */
  onChange(paths: readonly string[]): void
  /** Watching has failed. The files that were watched before may still be. */
  onError(error: Error): void
}

/** Extensions of files that are a program. Others may be its data, which it writes itself. */
const PROGRAMS = new Set('.js .mjs .cjs .jsx .ts .mts .cts .tsx .json .node .wasm .vue .svelte'.split(' '))
const IGNORED_NAMES = new Set(['node_modules', 'bower_components', 'coverage'])
/** Files that editors and tools leave behind: copies, locks, files that are being written; and logs. */
const IGNORED_FILES = /~$|^#.*#$|\.(swp|swx|swo|tmp|log|pid|sock)$|^___jb_/
/** The time without a further change after which it is reported, in ms, and the longest time from the first change. */
const QUIET = 100
const LONGEST = 1000
/** How often it looks whether a watched folder is another one, in ms: a build may have removed it and made it again. No watch reports that. */
const LOOK = 250
/** How long a worker may start, in ms, if the files have changed since. Not at once: a program may write files itself when it starts. */
export const OUTDATED = 2000
/** Twice as long for each worker that was killed for it, up to this: otherwise a program that writes files and starts slowly never started. */
const MOST_OUTDATED = 30_000
/** A worker that ends sooner than this, in ms, waits for a change. */
export const STABLE = 1000
/** Longer than anybody waits for a change: the longest time of a timer. */
const UNTIL_CHANGE = 0x7fffffff

/** Watches until `close()`. It keeps the process running. Rejects with ENOSPC or EMFILE if the system has too few watches. */
export class Watch implements AsyncDisposable {
  readonly #options: WatchOptions
  readonly #watcher: ReturnType<typeof watchPaths>
  readonly #changed = new Set<string>()
  /** The watched folders, and which one each path named when it was last looked at. Undefined: none. */
  readonly #roots: Map<string, string | undefined>
  readonly #look: NodeJS.Timeout
  #next: { promise: Promise<void>; resolve: () => void } | undefined
  #first = 0
  #timer: NodeJS.Timeout | undefined

  static async start(options: WatchOptions): Promise<Watch> {
    const watch = new Watch(options)
    try {
      await once(watch.#watcher, 'ready')
    } catch (error) {
      await watch.close()
      throw explain(error as NodeJS.ErrnoException)
    }
    watch.#watcher.on('error', error => options.onError(explain(error as NodeJS.ErrnoException)))
    return watch
  }

  private constructor(options: WatchOptions) {
    const { folders = [], files = [], ignored = [], cwd } = options
    this.#options = options
    const roots = (folders.length === 0 ? ['.'] : folders).map(folder => resolve(cwd, folder))
    this.#roots = new Map(roots.map(root => [root, identityOf(root)]))
    const always = new Set(files.map(file => resolve(cwd, file)))
    const never = new Set(ignored.map(file => resolve(cwd, file)))
    this.#watcher = watchPaths([...roots, ...always], {
      ignoreInitial: true,
      ignored: (path, stats) => {
        if (always.has(path)) return false
        if (never.has(path) || isSpecial(stats)) return true
        const inner = roots.flatMap(root => within(root, path) ?? [])
        return inner.every(each => isIgnored(each, folders.length === 0 && stats?.isFile() === true))
      }
    })
    this.#watcher.on('all', (event, path) => {
      if (event === 'unlinkDir' && this.#roots.has(path)) this.#roots.set(path, undefined)
      if (event !== 'addDir' && event !== 'unlinkDir') this.#note(path)
    })
    this.#look = setInterval(() => this.#lookAtRoots(), LOOK)
  }

  /** Resolves at the next change, after `onChange`. */
  next(): Promise<void> {
    if (this.#next === undefined) {
      let resolve = (): void => {}
      const promise = new Promise<void>(settle => {
        resolve = settle
      })
      this.#next = { promise, resolve }
    }
    return this.#next.promise
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer)
    clearInterval(this.#look)
    await this.#watcher.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Watches a folder that is at the path of a watched one that was removed or renamed. */
  #lookAtRoots(): void {
    for (const [root, before] of this.#roots) {
      const now = identityOf(root)
      this.#roots.set(root, now)
      if (now === before || now === undefined) continue
      this.#watcher.unwatch(root)
      this.#watcher.add(root)
      this.#note(root)
    }
  }

  #note(path: string): void {
    const now = performance.now()
    if (this.#changed.size === 0) this.#first = now
    this.#changed.add(relative(this.#options.cwd, path) || '.')
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#tell(), Math.max(0, Math.min(QUIET, this.#first + LONGEST - now)))
  }

  #tell(): void {
    const paths = [...this.#changed].sort()
    this.#changed.clear()
    const next = this.#next
    this.#next = undefined
    this.#options.onChange(paths)
    next?.resolve()
  }
}

/**
 * Makes a function that reloads, for `onChange`. A change while the supervisor replaces its workers causes one further reload, because
 * `reload()` joins calls that have not begun. A new worker that has read older files, and is not ready in time, is killed: it may never be ready. A
 * failure is reported once: the old code serves on. Changes while the supervisor starts are handled when
 * `started()` is called.
 */
export function reloader(
  supervisor: Pick<Supervisor, 'reload' | 'workers'>,
  onFailed: (error: Error) => void,
  onOutdated: (worker: WorkerInfo) => void = () => {},
  patience: Patience = { time: OUTDATED }
): { change(): void; started(): void } {
  const reported = new WeakSet<Error>()
  let isEarly = false
  let latest = 0
  const change = (): void => {
    const mine = ++latest
    for (const { id, state, uptime } of supervisor.workers)
      if (state === 'starting')
        setTimeout(
          () => {
            if (killStarting(supervisor, id, onOutdated)) patience.time = Math.min(2 * patience.time, MOST_OUTDATED)
          },
          Math.max(0, patience.time - uptime)
        ).unref()
    const reloaded = supervisor.reload().then(() => {
      patience.time = OUTDATED
    })
    reloaded.catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ERR_PASSFD_SUPERVISOR_STATE') isEarly = true
      else if (error.code !== 'ERR_PASSFD_SUPERVISOR_STOPPED' && mine === latest && !reported.has(error)) {
        reported.add(error)
        onFailed(error)
      }
    })
  }
  return {
    change,
    started: () => {
      patience.time = OUTDATED
      if (isEarly) change()
      isEarly = false
    }
  }
}

/** How long an outdated worker may start at the moment, in ms. */
export interface Patience {
  time: number
}

/** Unless it is ready, or has ended. Returns whether it was killed. */
function killStarting(
  { workers }: Pick<Supervisor, 'workers'>,
  id: number,
  onOutdated: (worker: WorkerInfo) => void
): boolean {
  const worker = workers.find(worker => worker.id === id && worker.state === 'starting')
  if (worker?.pid === undefined) return false
  try {
    process.kill(worker.pid, 'SIGKILL')
  } catch {
    return false // it runs as another user
  }
  onOutdated(worker)
  return true
}

/** A worker that ends soon after its start waits for a change: its port stays open, and requests wait in it. Another one is replaced at once. */
export const restartOnChange: RestartPolicy = deaths => {
  const newest = deaths.at(-1)
  return { restart: true, delay: newest !== undefined && newest.uptime < STABLE ? UNTIL_CHANGE : 0 }
}

/** Better defaults while somebody develops: one worker shows one version, and connections that never end delay no reload. */
export const WATCH_DEFAULTS = {
  workers: 1,
  stopTimeout: 2000,
  restart: restartOnChange
} as const satisfies Partial<SupervisorOptions>

/** Whether a file or folder is left alone. `inner`: its path from the watched folder. */
export function isIgnored(inner: string, programsOnly: boolean): boolean {
  if (inner === '') return false
  const names = inner.split(sep)
  if (names.some(name => name.startsWith('.') || IGNORED_NAMES.has(name))) return true
  return IGNORED_FILES.test(basename(inner)) || (programsOnly && !PROGRAMS.has(extname(inner)))
}

/** A socket, such as passfd's own, or another thing that is no program. */
function isSpecial(stats: Stats | undefined): boolean {
  return stats !== undefined && !stats.isFile() && !stats.isDirectory() && !stats.isSymbolicLink()
}

/** Which folder it is: a new one may have the number of one that was removed. */
function identityOf(folder: string): string | undefined {
  try {
    const { dev, ino, birthtimeMs } = statSync(folder)
    return `${dev} ${ino} ${birthtimeMs}`
  } catch {
    return undefined
  }
}

/** Undefined: it is elsewhere. */
function within(root: string, path: string): string | undefined {
  const inner = relative(root, path)
  return inner === '..' || inner.startsWith(`..${sep}`) ? undefined : inner
}

function explain(error: NodeJS.ErrnoException): Error {
  if (error.code !== 'ENOSPC' && error.code !== 'EMFILE') return error
  return new CommandError(
    EXIT.temporary,
    `The system has no watches left for files (${error.code})`,
    'Name fewer folders, or raise fs.inotify.max_user_watches and max_user_instances with sysctl(8)',
    { code: error.code, cause: error }
  )
}
