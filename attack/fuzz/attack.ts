/** Bytes and values that no program would send, guided by which code of passfd they reach. */

import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'
import { Coverage } from './coverage.ts'
import { mutant } from './mutate.ts'
import { TARGETS, type Target } from './targets.ts'

/** After so many inputs it is looked at which code has run. */
const BATCH = 1000
/** The most CPU time for an input, in ms: this, and as much for each MiB. Measured again before it counts, because this machine does other things, too. */
const TIME = 20
const TIME_PER_MIB = 100
/** What has reached new code in earlier runs, and what has found something: it is tried first. */
const CORPUS = fileURLToPath(new URL('corpus', import.meta.url))
/** The most faults of a target: others are mostly the same. */
const MOST = 5

const counts = { executions: 0, 'inputs that reached new code': 0, 'blocks of code that ran': 0 }
const NAMES = Object.keys(TARGETS)

export const fuzz: Attack = {
  promise:
    'Whatever bytes and values a peer sends, passfd reads them within their bounds, or refuses them by an error with a code, in bounded time.',
  what: 'Inputs are changed at random; those that reach new code are changed further.',
  parts: NAMES,
  count: 10_000_000,
  sample: 12_000,
  time: 3_600_000,
  run
}

function run(settings: Settings): Promise<Outcome> {
  return shareOut(settings, chosenOf(NAMES, settings), counts, async (name, share) =>
    attackTarget(name, TARGETS[name]!, share)
  )
}

function attackTarget(name: string, target: Target, { seed, count, until, log, tell, found }: Share): void {
  const random = new Random(seed)
  const coverage = new Coverage(target.sources)
  const corpus = [...target.seeds(), ...kept(name)]
  let faults = 0
  const attempt = (input: Buffer): void => {
    const problem = problemOf(target, input)
    if (problem === undefined || faults === MOST) return
    faults++
    found(`${name}: ${problem} (${keep(name, input)})`)
  }
  /** Adds those of the inputs to the corpus that reach code that none before them has reached: by halves, as looking costs more than an input. */
  const keepNew = (inputs: Buffer[]): void => {
    for (const input of inputs) problemOf(target, input)
    if (coverage.take(inputs.length > 1).length === 0) return
    if (inputs.length === 1) {
      corpus.push(inputs[0]!)
      tell('inputs that reached new code', 1)
      return
    }
    const middle = inputs.length >> 1
    keepNew(inputs.slice(0, middle))
    keepNew(inputs.slice(middle))
  }
  for (const input of corpus) attempt(input)
  tell('executions', corpus.length)
  coverage.take()
  let tried = 0
  for (; tried < count && performance.now() < until && faults < MOST; tried += BATCH) {
    const batch = Array.from({ length: BATCH }, () => mutant(corpus, random))
    for (const input of batch) attempt(input)
    if (coverage.take(true).length > 0) keepNew(batch)
  }
  tell('executions', tried)
  tell('blocks of code that ran', coverage.size)
  log(`${name}: ${coverage.size} blocks of code, ${corpus.length} inputs in the corpus`)
  coverage.close()
}

function problemOf(target: Target, input: Buffer): string | undefined {
  const most = TIME + (TIME_PER_MIB * input.length) / 2 ** 20
  let least = Number.POSITIVE_INFINITY
  for (let turn = 0; turn < 3 && least > most; turn++) {
    const begun = process.cpuUsage()
    try {
      target.attempt(input)
    } catch (error) {
      return (error as Error).stack ?? String(error)
    }
    const { user, system } = process.cpuUsage(begun)
    least = Math.min(least, (user + system) / 1000)
  }
  return least > most ? `${least.toFixed(0)} ms of CPU time for ${input.length} bytes` : undefined
}

function kept(name: string): Buffer[] {
  try {
    return readdirSync(join(CORPUS, name)).map(file => readFileSync(join(CORPUS, name, file)))
  } catch {
    return []
  }
}

/** Every fault stays in the corpus, which the tests go through. */
function keep(name: string, input: Buffer): string {
  mkdirSync(join(CORPUS, name), { recursive: true })
  const file = join(name, createHash('sha256').update(input).digest('hex').slice(0, 16))
  writeFileSync(join(CORPUS, file), input)
  return `attack/fuzz/corpus/${file}`
}
