/** What is seen of a run each second, and what of it must not be. */
import { readdirSync } from 'node:fs'
import type { Row } from '../attack.ts'
import { type Facts, kindsOf, look } from './processes.ts'

/** At most, whatever the load: what a process has open at rest, its connections, and two generations of workers. */
const MOST_OPEN: Record<Facts['role'], number> = { supervisor: 250, worker: 200, peer: 250, store: 400 }
/** MiB. */
const MOST_RSS = 250
/** MiB that processes that live as long as the run may have more at its end than after its warm-up. */
const MOST_GROWTH = 24
/** ms. No operation blocks a process for longer than 1,500 ms, and a busy machine adds to that. */
const MOST_DELAY = 30_000

/** Files of the folder that are no means of the attack: sockets. */
export function filesOf(folder: string): string[] {
  return readdirSync(folder).filter(name => !/^(?:boot|block|delay-\d+|datagrams-\d+)$/.test(name))
}

interface Extremes {
  processes: Set<number>
  descriptors: number
  rss: number
  delays: number[]
}

/** What was seen each second, and what of it must not be. */
export class Watch {
  readonly #folder: string
  readonly #report: (what: string) => void
  readonly #patience: number
  readonly #roles = new Map<Facts['role'], Extremes>()
  /** RSS of processes that live as long as the run: of each second since the warm-up. */
  readonly #memory = new Map<Facts['role'], number[]>()
  /** When they were seen first. */
  #zombies = new Map<number, number>()
  #strays = new Map<number, number>()
  #files: Set<string> | undefined
  #warmUntil = Infinity

  /** `patience`: how long a process may be a zombie or without its supervisor, in ms. A supervisor that is frozen for a moment reaps nobody. */
  constructor(folder: string, report: (what: string) => void, patience = 10_000) {
    this.#folder = folder
    this.#report = report
    this.#patience = patience
  }

  warmUntil(time: number): void {
    this.#warmUntil = time
  }

  /** How many things it has checked. */
  check(): number {
    const { processes, zombies } = look(this.#folder)
    for (const facts of processes) this.#checkProcess(facts)
    this.#zombies = this.#since(this.#zombies, zombies, 'is a zombie')
    const pids = new Set([process.pid, ...processes.map(({ pid }) => pid)])
    const strays = processes.filter(({ parent }) => !pids.has(parent)).map(({ pid }) => pid)
    this.#strays = this.#since(this.#strays, strays, 'has lost its supervisor')
    const files = filesOf(this.#folder)
    this.#files ??= new Set(files)
    for (const name of files) if (!this.#files.has(name)) this.#report(`there is a new file ${name}`)
    return processes.length * 3 + 3
  }

  /** Reports those that are so for too long. */
  #since(before: ReadonlyMap<number, number>, pids: readonly number[], what: string): Map<number, number> {
    const now = performance.now()
    const since = new Map(pids.map(pid => [pid, before.get(pid) ?? now]))
    for (const [pid, first] of since) if (now - first > this.#patience) this.#report(`process ${pid} ${what}`)
    return since
  }

  #checkProcess({ pid, role, descriptors, rss, delay }: Facts): void {
    const known = this.#roles.get(role) ?? { processes: new Set(), descriptors: 0, rss: 0, delays: [] }
    this.#roles.set(role, known)
    known.processes.add(pid)
    known.descriptors = Math.max(known.descriptors, descriptors)
    known.rss = Math.max(known.rss, rss)
    if (delay !== undefined) known.delays.push(delay)
    if (descriptors > MOST_OPEN[role])
      this.#report(`a ${role} has more than ${MOST_OPEN[role]} descriptors: ${kindsOf(pid)}`)
    if (rss > MOST_RSS) this.#report(`a ${role} has more than ${MOST_RSS} MiB`)
    if (delay !== undefined && delay > MOST_DELAY) this.#report(`the event loop of a ${role} is delayed by ${delay} ms`)
    if ((role === 'peer' || role === 'store') && performance.now() > this.#warmUntil)
      this.#memory.set(role, [...(this.#memory.get(role) ?? []), rss])
  }

  /** When nobody uses peer and store any more. */
  end(): void {
    for (const { role, pid, descriptors } of look(this.#folder).processes) {
      if (role === 'supervisor' || role === 'worker') this.#report(`a ${role} is left`)
      else if (descriptors > 60) this.#report(`the ${role} leaves open ${kindsOf(pid)}`)
    }
    for (const [role, growth] of this.#growth())
      if (growth > MOST_GROWTH) this.#report(`the ${role} has grown by ${growth} MiB`)
  }

  /** The median of the last fifth less that of the first one. */
  #growth(): [Facts['role'], number][] {
    return [...this.#memory].map(([role, values]) => {
      const fifth = Math.ceil(values.length / 5)
      return [role, Math.round(median(values.slice(-fifth)) - median(values.slice(0, fifth)))]
    })
  }

  get rows(): Row[] {
    const growth = new Map(this.#growth())
    return [...this.#roles].map(([role, { processes, descriptors, rss, delays }]) => ({
      process: role,
      processes: processes.size,
      'descriptors at most': descriptors,
      'MiB at most': Math.round(rss),
      'grown by MiB': growth.get(role) ?? '',
      'delay in ms, median': median(delays),
      'delay in ms, at most': Math.max(0, ...delays)
    }))
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}
