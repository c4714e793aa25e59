/** What happens very often leaves no memory behind: two processes do it, and say ten times what they have. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type Attack, chosenOf, type Outcome, type Settings } from '../attack.ts'

const MEBIBYTE = 2 ** 20
/** Of its work, after which a process reports; ends.mjs. */
const TENTHS = 10
/** Of each, what a whole run does. */
const WHOLE = { connections: 1_000_000, messages: 10_000_000, reloads: 1000 }
const PARTS = Object.keys(WHOLE) as Part[]
type Part = keyof typeof WHOLE

/** What a process has, after two collections. Bytes, and descriptors. */
export interface Facts {
  readonly rss: number
  readonly heapUsed: number
  readonly external: number
  readonly open: number
  readonly held: number
}

/** What may be more at the end than at half-time. V8 gives its young generation back late, and glibc in pieces. */
const MOST: Record<keyof Facts, number> = {
  rss: 32 * MEBIBYTE,
  heapUsed: MEBIBYTE,
  external: MEBIBYTE,
  open: 64,
  held: 64
}

export const flat: Attack = {
  promise: 'The memory and the open descriptors of a process do not grow with what it has done.',
  what: 'Ten million messages, some with a descriptor, some requests; a million connections taken from a server, sent and injected into another; a thousand reloads. At half-time and at the end both processes collect their garbage and report.',
  needs: ['build'],
  parts: PARTS,
  count: 100,
  sample: 1,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const counts: Record<string, number> = { hundredths: 0, messages: 0, connections: 0, reloads: 0 }
  const outcome = { counts, found: [] as string[], untried: [] as string[] }
  const parts = chosenOf(PARTS, settings) as Part[]
  const end = performance.now() + settings.time
  let done = 0
  for (const [at, part] of parts.entries()) {
    const count = Math.ceil((WHOLE[part] * settings.count) / 100)
    const time = (end - performance.now()) / (parts.length - at)
    const late = () => outcome.untried.push(`${part}: nothing was done when the time was over`)
    if (time <= 0) {
      late()
      continue
    }
    const { reports, problems } = await runPart(part, count, time)
    for (const side of ['near', 'far'] as const) {
      const facts = reports.flatMap(report => report[side] ?? [])
      if (facts.length === 0) continue
      const [begin, last] = [facts[0]!, facts.at(-1)!]
      settings.log(
        `${part}, ${side}: ${mebibytes(begin.rss)} resident, of that ${mebibytes(begin.heapUsed)} objects; at the end ${mebibytes(last.rss)} and ${mebibytes(last.heapUsed)}`
      )
      problems.push(...growthOf(facts).map(each => `${side}: ${each}`))
    }
    if (count > 0 && problems.length === 0 && !reports.some(report => report.done > 0)) late()
    counts[part]! += Math.round((count * (reports.at(-1)?.done ?? 0)) / TENTHS)
    done += reports.at(-1)?.done ?? 0
    for (const problem of problems) {
      outcome.found.push(`${part}, ${count}: ${problem}`)
      settings.log(outcome.found.at(-1)!)
    }
  }
  counts.hundredths = (settings.count * done) / (TENTHS * parts.length)
  return outcome
}

interface Report {
  /** Tenths. */
  readonly done: number
  readonly near: Facts
  readonly far?: Facts
}

async function runPart(part: Part, count: number, time: number): Promise<{ reports: Report[]; problems: string[] }> {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  const path = join(folder, 'socket')
  const problems: string[] = []
  const started: ChildProcess[] = []
  const due = performance.now() + time
  const start = (...args: string[]) => {
    const program = fileURLToPath(new URL('ends.mjs', import.meta.url))
    const child = spawn(process.execPath, ['--expose-gc', program, part, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: Math.ceil(time),
      killSignal: 'SIGKILL'
    })
    started.push(child)
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', text => {
      stderr += text
    })
    const exit = once(child, 'exit').then(([code, signal]) => {
      // Its time is over
      if (performance.now() >= due) return
      if (code !== 0) problems.push(`${args[0]} ends with ${signal ?? code}: ${stderr}`)
    })
    return { lines: createInterface({ input: child.stdout }), exit }
  }
  try {
    const far = part === 'reloads' ? undefined : start('far', path)
    if (far !== undefined) await Promise.race([once(far.lines, 'line'), far.exit])
    const near = start('near', path, `${count}`)
    const reports: Report[] = []
    near.lines.on('line', line => reports.push(JSON.parse(line)))
    await near.exit
    if (problems.length > 0) started[0]!.kill('SIGKILL')
    await far?.exit
    return { reports, problems }
  } finally {
    for (const child of started) child.kill('SIGKILL')
    rmSync(folder, { recursive: true })
  }
}

/** What has grown from half-time on, of facts at equal distances. */
export function growthOf(facts: readonly Facts[]): string[] {
  const half = facts[facts.length >> 1]!
  const last = facts.at(-1)!
  return (Object.keys(MOST) as (keyof Facts)[]).flatMap(what =>
    last[what] - half[what] > MOST[what] ? [`${what} has grown from ${half[what]} at half-time to ${last[what]}`] : []
  )
}

function mebibytes(bytes: number): string {
  return `${(bytes / MEBIBYTE).toFixed(1)} MiB`
}
