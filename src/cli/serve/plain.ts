/**
 * `passfd serve` on a system without passfd's native part: the program as one plain process, for development. A change or SIGHUP restarts it. Its
 * ports are closed meanwhile, because no other process can hold them.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type Death, restartPolicy } from '../../prefork/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import type { Report } from '../report.ts'
import { duration } from '../words.ts'
import type { Changes } from './changes.ts'
import { onHangup } from './hangup.ts'
import { OPTIONS, type ServeOptions } from './options.ts'
import { checkFound } from './program.ts'
import { environmentOf } from './supervisor-options.ts'
import { restartOnChange, STABLE, WATCH_DEFAULTS } from './watch.ts'

export interface PlainPlan {
  readonly name: string
  readonly options: ServeOptions
  readonly command: readonly [string, ...string[]]
  readonly cwd: string
  /** The environment of this process. */
  readonly env: NodeJS.ProcessEnv
  log(report: Report): void
}

/** Those that mean the same for a plain process. */
const EFFECTIVE: readonly (keyof ServeOptions)[] = [
  'args',
  'conditions',
  'config',
  'cwd',
  'env',
  'envFile',
  'gid',
  'import',
  'killTimeout',
  'name',
  'nodeOption',
  'program',
  'require',
  'stopTimeout',
  'uid',
  'watch',
  'workers'
]
/** As of the only worker: those of control/desk.ts. */
const SLOT = { PASSFD_SLOT: '0', NODE_APP_INSTANCE: '0' }
const STOP_TIMEOUT = 30_000
const KILL_TIMEOUT = 5000
/** How often it looks whether the last process of a program has ended, in ms. */
const LOOK = 20

/** Serves until it is stopped. `system`: its name, for what is reported. Rejects if the program ends again and again. */
export async function servePlainly(plan: PlainPlan, system: string, changes?: Changes): Promise<void> {
  const { name, options, log } = plan
  if (options.takeover === true)
    throw new CommandError(
      EXIT.usage,
      `On ${system} no process can take the place of another one`,
      'Leave out --takeover'
    )
  log({ event: 'plain', level: 'warning', text: restrictions(options, system) })
  const orders = new Orders()
  changes?.onChange(() => orders.restart())
  const ignoreHangup = onHangup(() => orders.stop())
  const listeners = { SIGTERM: () => orders.stop(), SIGINT: () => orders.stop(), SIGHUP: () => orders.restart() }
  for (const [signal, listener] of Object.entries(listeners)) process.on(signal, listener)
  const policy = options.watch === undefined ? restartPolicy() : restartOnChange
  const deaths: Death[] = []
  try {
    for (let starts = 1; !orders.stops; starts++) {
      orders.begin()
      const program = await Program.start(plan)
      const text = `${name} ${starts === 1 ? 'runs as' : 'was started again as'} process ${program.pid}`
      log({ event: 'started', level: 'info', text, facts: { name, pid: program.pid } })
      await Promise.race([program.ended, orders.given])
      if (program.ending === undefined) {
        await program.end(orders)
        continue
      }
      const { how, uptime } = program.ending
      await program.end(orders) // what it has left
      deaths.push({ booted: uptime >= STABLE, uptime, at: performance.now(), slot: 0 })
      const decision = policy(deaths, performance.now())
      const ended = `${name} (process ${program.pid}) has ended after ${duration(uptime)}: ${how}`
      if (!decision.restart) throw new CommandError(EXIT.failed, ended, 'It ended that soon each time')
      const waits = options.watch !== undefined && decision.delay > 0 ? '. Waiting for a change of a file' : ''
      log({ event: 'exit', level: 'warning', text: `${ended}${waits}`, facts: { pid: program.pid } })
      await orders.within(decision.delay)
    }
    log({ event: 'stopped', level: 'info', text: `${name} has stopped`, facts: { name } })
  } finally {
    ignoreHangup()
    for (const [signal, listener] of Object.entries(listeners)) process.off(signal, listener)
  }
}

/** What the user misses here, in one sentence. */
export function restrictions(options: ServeOptions, system: string): string {
  const lost = Object.entries(options).flatMap(([name, value]) => {
    if (value === undefined || value === false || EFFECTIVE.includes(name as keyof ServeOptions)) return []
    const { flags } = OPTIONS[name as keyof ServeOptions]
    return /--[a-z-]+/.exec(flags ?? '')?.[0] ?? name
  })
  const { workers = 1 } = options
  const one = workers === 1 ? '' : ` rather than ${workers === 'max' ? 'one for each processor' : workers}`
  const without = lost.length === 0 ? '' : `, and ${list(lost)} ${lost.length === 1 ? 'has' : 'have'} no effect`
  return `On ${system} passfd runs the program as one plain process${one}: its ports are closed while it restarts${without}`
}

function list(names: readonly string[]): string {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`
}

/** What the user, or a change, asks of the running program. */
class Orders {
  stops = false
  /** Resolves at the next order. */
  given!: Promise<void>
  #give!: () => void
  /** Called for each order to stop after the first one. */
  onHurry = (): void => {}

  constructor() {
    this.begin()
  }

  /** A program begins, which has read what has changed. */
  begin(): void {
    this.given = new Promise(resolve => {
      this.#give = resolve
    })
    if (this.stops) this.#give()
  }

  restart(): void {
    this.#give()
  }

  stop(): void {
    if (this.stops) this.onHurry()
    this.stops = true
    this.#give()
  }

  /** Resolves at an order, or after `delay` ms. */
  async within(delay: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const over = new Promise<void>(resolve => {
      timer = setTimeout(resolve, delay)
    })
    await Promise.race([over, this.given])
    clearTimeout(timer)
  }
}

/** One run of the program. On Windows a process has no group, and can't be asked to end: it is ended at once. */
class Program {
  readonly #child: ChildProcess
  readonly #limits: { readonly stop: number; readonly kill: number }
  readonly #began = performance.now()
  readonly #hasGroup: boolean
  /** How its first process has ended, and when. */
  ending: { readonly how: string; readonly uptime: number } | undefined
  readonly ended: Promise<void>

  /** Rejects if it can't be started. */
  static async start(plan: PlainPlan): Promise<Program> {
    const program = new Program(plan)
    await once(program.#child, 'spawn')
    return program
  }

  private constructor({ command, cwd, options, env }: PlainPlan) {
    const [file, ...args] = command
    const environment = environmentOf(options, { cwd, env, colors: false })
    this.#hasGroup = process.platform !== 'win32'
    if (!this.#hasGroup && file !== process.execPath)
      throw new CommandError(
        EXIT.usage,
        `On Windows passfd serve runs Node programs only, and ${file} is a command`,
        'Name the file of the program'
      )
    if (this.#hasGroup) checkFound(file, environment.PATH!, cwd)
    const { uid, gid } = options
    this.#child = spawn(file, args, {
      cwd,
      env: { ...environment, ...SLOT },
      // A program that is written for --wait-ready calls process.send() without a look. Nothing waits for it here
      stdio: ['ignore', 'inherit', 'inherit', ...(options.waitReady === true ? (['ipc'] as const) : [])],
      detached: this.#hasGroup, // Ctrl-C reaches this process only
      ...(uid === undefined ? {} : { uid }),
      ...(gid === undefined ? {} : { gid })
    })
    const watched = options.watch === undefined ? STOP_TIMEOUT : WATCH_DEFAULTS.stopTimeout
    this.#limits = { stop: options.stopTimeout ?? watched, kill: options.killTimeout ?? KILL_TIMEOUT }
    const killAll = (): void => void this.#signal('SIGKILL')
    process.on('exit', killAll)
    this.ended = once(this.#child, 'exit').then(([code, signal]) => {
      process.off('exit', killAll)
      const how = signal === null ? `exit code ${code}` : `signal ${signal}`
      this.ending = { how, uptime: performance.now() - this.#began }
    })
    this.ended.catch(() => process.off('exit', killAll)) // it was not started
  }

  get pid(): number {
    return this.#child.pid!
  }

  /** Stops all its processes: by TERM, and after the times by KILL. Another order to stop is one more TERM, and shortens the time. */
  async end(orders: Orders): Promise<void> {
    const { stop, kill } = this.#limits
    const begin = performance.now()
    let limit = stop + kill
    orders.onHurry = () => {
      limit = performance.now() - begin + kill
      this.#signal('SIGTERM')
    }
    this.#signal('SIGTERM')
    while (this.#lives) {
      if (performance.now() - begin > limit) this.#signal('SIGKILL')
      await new Promise(resolve => setTimeout(resolve, LOOK))
    }
    orders.onHurry = () => {}
    await this.ended
  }

  get #lives(): boolean {
    return this.#signal(0)
  }

  /** Returns whether a process got it. */
  #signal(signal: NodeJS.Signals | 0): boolean {
    if (!this.#hasGroup) return this.#child.kill(signal)
    try {
      return process.kill(-this.pid, signal)
    } catch {
      return false // all have ended
    }
  }
}
