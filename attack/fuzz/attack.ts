/** Bytes and values that no program would send, guided by which code of passfd they reach. */

import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'
import { Unable } from '../needs.ts'
import { Coverage, Profiler } from './coverage.ts'
import { mutant } from './mutate.ts'
import { NAMES } from './names.ts'
import type { Target } from './target.ts'

/** After so many inputs it is looked at which code has run. */
const BATCH = 1000
/** So many times in a row nothing new has run: from then on V8 does not count, and inputs are tried several times as fast. */
const BARREN = 20
/** The most CPU time for an input, in ms: this, and as much for each MiB. Measured again before it counts, because this machine does other things, too. */
const TIME = 20
const TIME_PER_MIB = 100
/** What has reached new code in earlier runs, and what has found something: it is tried first. */
const CORPUS = fileURLToPath(new URL('corpus', import.meta.url))
/** The most faults of a target: others are mostly the same. */
const MOST = 5

const counts = { executions: 0, 'inputs that reached new code': 0, 'blocks of code that ran': 0 }

export const fuzz: Attack = {
  promise:
    'Whatever bytes and values a peer sends, passfd reads them within their bounds, or refuses them by an error with a code, in bounded time.',
  what: 'Inputs are changed at random; those that reach new code are changed further.',
  needs: [],
  parts: NAMES,
  count: 10_000_000,
  sample: 24_000,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const chosen = chosenOf(NAMES, settings)
  const profiler = new Profiler()
  try {
    const { TARGETS } = await import('./targets.ts')
    profiler.loaded()
    return await shareOut(settings, chosen, counts, async (name, share) =>
      attackTarget(name, TARGETS[name]!, profiler, share)
    )
  } finally {
    profiler.close()
  }
}

async function attackTarget(
  name: string,
  target: Target,
  profiler: Profiler,
  { seed, count, until, log, tell, found }: Share
): Promise<void> {
  const random = new Random(seed)
  const coverage = new Coverage(profiler, target.sources)
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
    if (!coverage.take(inputs.length > 1)) return
    if (inputs.length === 1) {
      corpus.push(inputs[0]!)
      tell('inputs that reached new code', 1)
      return
    }
    const middle = inputs.length >> 1
    keepNew(inputs.slice(0, middle))
    keepNew(inputs.slice(middle))
  }
  const begun = performance.now()
  for (const input of corpus) attempt(input)
  tell('executions', corpus.length)
  coverage.take()
  let tried = 0
  let barren = 0
  const isGuided = (): boolean => barren < BARREN && tried < count / 2
  for (; tried < count && performance.now() < until && faults < MOST; tried += BATCH) {
    await turn() // for a signal
    const batch = Array.from({ length: Math.min(BATCH, count - tried) }, () => mutant(corpus, random))
    for (const input of batch) attempt(input)
    if (!isGuided()) profiler.stop()
    else if (coverage.take(true)) {
      keepNew(batch)
      barren = 0
    } else barren++
  }
  if (tried === 0 && count > 0) throw new Unable('nothing but the corpus was tried: the time was over')
  tell('executions', Math.min(tried, count))
  tell('blocks of code that ran', coverage.size)
  const rate = Math.round((Math.min(tried, count) * 1000) / (performance.now() - begun))
  log(`${name}: ${rate.toLocaleString('en')} a second, ${corpus.length} inputs in the corpus; ${shown(coverage)}`)
}

/** How much of the target's sources has run, and the functions in them that have not. */
function shown(coverage: Coverage): string {
  const files = coverage.files()
  const all = files.reduce((sum, file) => sum + file.all, 0)
  const ran = files.reduce((sum, file) => sum + file.ran, 0)
  const missed = files.flatMap(file => file.missed)
  const not = missed.length === 0 ? '' : `; not: ${missed.slice(0, 12).join(', ')}${missed.length > 12 ? ', …' : ''}`
  const part = all === 0 ? 'an unknown part' : `${Math.round((100 * ran) / all)} %`
  return `${coverage.size} blocks, ${part} of ${files.length} files${not}`
}

function problemOf(target: Target, input: Buffer): string | undefined {
  const most = TIME + (TIME_PER_MIB * input.length) / 2 ** 20
  let least = Number.POSITIVE_INFINITY
  for (let turn = 0; turn < 4 && least > most; turn++) {
    const begun = performance.now()
    const cpu = turn === 0 ? undefined : process.cpuUsage()
    try {
      target.attempt(input)
    } catch (error) {
      return (error as Error).stack ?? String(error)
    }
    // Others may have had the processor meanwhile. To ask for the CPU time takes longer than most inputs
    const time = performance.now() - begun
    if (cpu === undefined) least = time <= most ? time : least
    else {
      const { user, system } = process.cpuUsage(cpu)
      least = Math.min(least, (user + system) / 1000)
    }
  }
  if (least > most) return `${least.toFixed(0)} ms of CPU time for ${input.length} bytes`
  return polluted()
}

/** What a value may not do: add something to all objects. */
function polluted(): string | undefined {
  for (const key in {}) return `all objects have a property ${JSON.stringify(key)} now`
  return undefined
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
