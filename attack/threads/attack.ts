/** Threads that pass descriptors end in the midst of it, and their process goes on. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Random } from '../../test/helpers/random.ts'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'

const SCENARIOS = ['channel', 'connection', 'datagrams', 'memory', 'packets', 'store', 'stream']
/** How a thread ends: its process ends it, it calls process.exit(), or it throws. */
const WAYS = ['terminate', 'exit', 'throw'] as const
/** So long a thread goes on at most, in ms: some rounds of each scenario. */
const LONGEST = 40
const WARM_UP = 4
/** How long a round may take, in ms. */
const PATIENCE = 60_000

const counts = { rounds: 0, terminate: 0, exit: 0, throw: 0 }

export const threads: Attack = {
  promise:
    'If a thread ends in the midst of its traffic, its process goes on, nothing that the thread had stays open, and the other end of each channel notices it.',
  what: 'A thread goes through a scenario three times at once, until terminate(), process.exit() or an exception ends it. Then the open files of its process are counted.',
  needs: ['build'],
  parts: SCENARIOS,
  count: 3000,
  sample: 21,
  time: 3_600_000,
  run
}

function run(settings: Settings): Promise<Outcome> {
  return shareOut(settings, chosenOf(SCENARIOS, settings), counts, attackScenario)
}

async function attackScenario(scenario: string, { seed, count, until, tell, found }: Share): Promise<void> {
  const random = new Random(seed)
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  let host = await Host.start(scenario, folder)
  try {
    for (let round = 0; round < count && performance.now() < until; round++) {
      const how = WAYS[round % WAYS.length]!
      const moment = random.next() * LONGEST
      const problems = await host.round(how, moment)
      tell('rounds', 1)
      tell(how, 1)
      if (problems.length === 0) continue
      found(
        `${scenario}, ${how} after ${moment.toFixed(2)} ms (round ${round} of seed ${seed}): ${problems.join('; ')}`
      )
      await host.close()
      host = await Host.start(scenario, folder)
    }
  } finally {
    await host.close()
    rmSync(folder, { recursive: true })
  }
}

class Host {
  readonly #child: ChildProcess
  readonly #ended: Promise<unknown[]>
  #stderr = ''

  private constructor(scenario: string, folder: string) {
    const program = fileURLToPath(new URL('host.mjs', import.meta.url))
    this.#child = fork(program, [scenario, folder], { stdio: ['ignore', 'inherit', 'pipe', 'ipc'], execArgv: [] })
    this.#ended = once(this.#child, 'exit')
    this.#child.stderr!.setEncoding('utf8').on('data', text => {
      this.#stderr += text
    })
  }

  /** With some rounds behind it: what is opened once is open then. */
  static async start(scenario: string, folder: string): Promise<Host> {
    const host = new Host(scenario, folder)
    await once(host.#child, 'message')
    for (let turn = 0; turn < WARM_UP; turn++) {
      const problems = await host.round(WAYS[turn % WAYS.length]!, 10)
      if (problems.length > 0) throw new Error(`${scenario}: ${problems.join('; ')}`)
    }
    await host.round(undefined, 0)
    return host
  }

  /** Returns what was wrong. */
  async round(how: (typeof WAYS)[number] | undefined, moment: number): Promise<string[]> {
    const answer = once(this.#child, 'message') as Promise<[{ problems: string[] }]>
    this.#child.send({ how, moment }, () => {})
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<'late'>(resolve => {
      timer = setTimeout(resolve, PATIENCE, 'late')
    })
    const first = await Promise.race([answer, this.#ended, late])
    clearTimeout(timer)
    if (first === 'late') return [`it says nothing for ${PATIENCE / 1000} s`]
    const [report] = first
    if (typeof report === 'object' && report !== null) return (report as { problems: string[] }).problems
    return [`its process has ended with ${this.#child.signalCode ?? this.#child.exitCode}: ${this.#stderr}`]
  }

  async close(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}
