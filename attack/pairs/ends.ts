/** The two processes of a scenario, and how they go through it, again and again. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export type Side = 'near' | 'far'
export const SIDES = ['near', 'far'] as const

/** All scenarios: programs of two processes that pass descriptors to each other, or share something that passes them. */
export const SCENARIOS: readonly string[] = readdirSync(here('scenarios'))
  .map(file => basename(file, '.mjs'))
  .sort()

/** What a process reports after a command; end.mjs. */
interface Report {
  outcomes?: Outcomes
  problems?: string[]
  uncaught?: string[]
  thrown?: string
  leak?: string
  open?: number
  held?: number
  variants?: string[]
}

/** What was promised in a round, 'ok' or the code of the error, and its errno if it has one. */
export type Outcomes = [what: string, outcome: string, errno?: number | null][]

export interface Result {
  readonly problems: string[]
  readonly outcomes: Outcomes
}

/** What happens to a round. */
export interface Spoiler {
  /** Promises of the round may be rejected, and passfd's limits of time are short. */
  readonly mayFail?: boolean
  /** Of the scenario's variants, if it has any. */
  readonly variant?: string
  /** Called when all is prepared, as `near` begins. */
  begin?(): void | Promise<void>
  /** Called when `near` is through, before anything is checked. */
  end?(): void | Promise<void>
}

/** Rounds without a fault, before the open files of both processes are counted: what is opened once is open then. */
const WARM_UP = 4
/** With one new process. */
const AGAIN = 1
/** How long an answer may take, in ms: every single promise of a round has its own, shorter limit. A process may be stopped for a minute. */
const ANSWER = 300_000

function here(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url))
}

class End {
  readonly #child: ChildProcess
  readonly #side: Side
  #stderr = ''
  #ended: string | undefined

  constructor(scenario: string, side: Side, folder: string, env: NodeJS.ProcessEnv, command: readonly string[]) {
    this.#side = side
    const [execPath = process.execPath, ...execArgv] = [...command, process.execPath]
    this.#child = fork(here('end.mjs'), [scenario, side, folder], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'inherit', process.env.DBG ? 'inherit' : 'pipe', 'ipc'],
      execPath,
      execArgv
    })
    this.#child.stderr?.setEncoding('utf8').on('data', text => {
      this.#stderr += text
    })
    this.#child.once('exit', (code, signal) => {
      this.#ended = `its process has ended with ${signal ?? code}: ${this.#stderr}`
    })
  }

  get ended(): boolean {
    return this.#ended !== undefined
  }

  get pid(): number {
    return this.#child.pid!
  }

  /** Of the scenario's variants, all. */
  async ready(): Promise<string[] | undefined> {
    const { thrown, variants } = await this.#next()
    if (thrown !== undefined) throw new Error(thrown)
    return variants
  }

  async ask(command: string, given?: unknown): Promise<Report> {
    if (this.#ended !== undefined) return { thrown: this.#ended }
    const answer = this.#next()
    this.#child.send({ command, given }, () => {})
    return answer
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name)
  }

  /** Resolves when the process has ended. */
  async over(): Promise<void> {
    if (!this.ended) await once(this.#child, 'exit')
  }

  /** The process ends itself, in the midst of a turn of its loop. Resolves to how it has ended: 0. */
  async exit(): Promise<string | number | null> {
    const over = this.ended ? undefined : once(this.#child, 'exit')
    this.#child.send({ command: 'exit' }, () => {})
    await over
    return this.#child.signalCode ?? this.#child.exitCode
  }

  async close(): Promise<void> {
    const over = this.ended ? undefined : once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await over
  }

  #next(): Promise<Report> {
    return new Promise(resolve => {
      const done = (report: Report): void => {
        clearTimeout(timer)
        this.#child.off('message', done as never).off('exit', onExit)
        resolve(report)
      }
      const onExit = (): void => done({ thrown: this.#ended! })
      const timer = setTimeout(() => {
        this.#child.kill('SIGKILL')
        done({ thrown: `${this.#side} says nothing for ${ANSWER / 1000} s` })
      }, ANSWER)
      this.#child.once('message', done as never).once('exit', onExit)
    })
  }
}

/** Where the two processes live. */
export interface Place {
  /** What both have in common: sockets, and what an attack puts there. Default: a new one. */
  readonly folder?: string
  /** Starts Node, which follows it: a program that execs the rest, and its arguments. */
  readonly command?: readonly string[]
}

export class Ends {
  readonly folder: string
  /** What `near` can be asked for, one in a round; if for nothing, it does them all. */
  variants: string[] | undefined
  readonly #scenario: string
  readonly #environment: (side: Side, folder: string) => NodeJS.ProcessEnv
  readonly #command: readonly string[]
  readonly #ends: Record<Side, End>
  readonly #before: Partial<Record<Side, Report>> = {}

  private constructor(
    scenario: string,
    environment: (side: Side, folder: string) => NodeJS.ProcessEnv,
    { folder = mkdtempSync(join(tmpdir(), 'passfd-attack-')), command = [] }: Place
  ) {
    this.folder = folder
    this.#scenario = scenario
    this.#environment = environment
    this.#command = command
    this.#ends = { far: this.#make('far'), near: this.#make('near') }
  }

  /** Starts both, and lets them go through some rounds. Rejects if one fails. `environment` is added to that of a process. */
  static async start(
    scenario: string,
    environment: (side: Side, folder: string) => NodeJS.ProcessEnv = () => ({}),
    place: Place = {}
  ): Promise<Ends> {
    const ends = new Ends(scenario, environment, place)
    try {
      const [variants] = await Promise.all([ends.#ends.near.ready(), ends.#ends.far.ready()])
      ends.variants = variants
      await ends.#warmUp(WARM_UP, ...SIDES)
    } catch (error) {
      await ends.close()
      throw error
    }
    return ends
  }

  /** A round: it is prepared, `near` does what the scenario is about, and what is left is checked. */
  async round({ mayFail = false, variant, begin, end }: Spoiler = {}): Promise<Result> {
    const problems: string[] = []
    const ask = async (side: Side, command: string, given?: unknown): Promise<Report> => {
      const report = await this.#ends[side].ask(command, given)
      const { problems: found = [], uncaught = [], thrown, leak } = report
      for (const each of [...found, ...uncaught]) problems.push(`${side}: ${each}`)
      if (thrown !== undefined) problems.push(`${side}: ${thrown}`)
      if (leak !== undefined) problems.push(`${side} leaves open ${leak}`)
      return report
    }
    const both = (command: string, given?: unknown): Promise<Report[]> =>
      Promise.all(SIDES.map(side => ask(side, command, given)))
    await both('prepare', { mayFail, variant })
    await begin?.()
    await ask('near', 'run')
    await end?.()
    await ask('near', 'check', { alone: this.#ends.far.ended })
    const [near] = await both('finish', { died: SIDES.some(side => this.#ends[side].ended) })
    for (const side of SIDES) {
      const before = this.#before[side]
      if (before === undefined) continue
      const { open } = await ask(side, 'settle', before)
      this.#before[side] = open === undefined ? before : { ...before, open }
    }
    return { problems, outcomes: near!.outcomes ?? [] }
  }

  signal(side: Side, name: NodeJS.Signals): void {
    this.#ends[side].signal(name)
  }

  /** Lets one call process.exit(). Resolves to its exit code, or the signal that has ended it. */
  exit(side: Side): Promise<string | number | null> {
    return this.#ends[side].exit()
  }

  pid(side: Side): number {
    return this.#ends[side].pid
  }

  over(side: Side): Promise<void> {
    return this.#ends[side].over()
  }

  ended(side: Side): boolean {
    return this.#ends[side].ended
  }

  /** Starts one again, in place of the one that has ended or ends now. */
  async restart(side: Side): Promise<void> {
    await this.#ends[side].close()
    this.#ends[side] = this.#make(side)
    await this.#ends[side].ready()
    delete this.#before[side]
    await this.#warmUp(AGAIN, side)
  }

  async close(): Promise<void> {
    await Promise.all(SIDES.map(side => this.#ends[side].close()))
    rmSync(this.folder, { recursive: true, force: true })
  }

  #make(side: Side): End {
    return new End(this.#scenario, side, this.folder, this.#environment(side, this.folder), this.#command)
  }

  /** Rounds that must succeed; afterwards every round of these processes must end with as much open as now. */
  async #warmUp(rounds: number, ...sides: Side[]): Promise<void> {
    for (let turn = 0; turn < rounds; turn++) await this.#harmless()
    // What was still open for a moment then is not open after one more round
    for (let turn = 0, isSure = false; !isSure && turn < WARM_UP; turn++) {
      const before = await this.#facts(sides)
      await this.#harmless()
      const after = await this.#facts(sides)
      isSure = sides.every((_, at) => before[at]!.open === after[at]!.open && before[at]!.held === after[at]!.held)
      for (const [at, side] of sides.entries()) this.#before[side] = after[at]!
    }
  }

  #facts(sides: Side[]): Promise<Report[]> {
    return Promise.all(sides.map(side => this.#ends[side].ask('facts')))
  }

  async #harmless(): Promise<void> {
    const problems = problemsOf(await this.round())
    if (problems.length > 0) throw new Error(`${this.#scenario} fails without a fault: ${problems.join('; ')}`)
  }
}

/** Of a round in which nothing may fail. */
export function problemsOf({ problems, outcomes }: Result): string[] {
  const failed = outcomes.filter(([, outcome]) => outcome !== 'ok').map(([what, outcome]) => `${what}: ${outcome}`)
  return failed.length === 0 ? problems : [...problems, `it fails: ${failed.join(', ')}`]
}
