/** A contender that runs. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { placementOf, watchCores } from './machine.ts'
import type { Contender, Placement } from './measure.ts'

export interface Measured {
  value: number
  /** What was lost meanwhile, if the contender counts that. */
  lost: number | undefined
  /** What else it says of the same time, by name. */
  sides: Record<string, number>
  /** For how much of the time its two ends were on one core, in percent, if the kernel has chosen the cores. */
  sameCore: number | undefined
}

export interface Running {
  /** One more measurement. Rejects if the contender fails instead. */
  measure(): Promise<Measured>
  /** Lets it end. Rejects if it fails. */
  end(): Promise<void>
  /** Ends it, if it still runs. */
  stop(): Promise<void>
}

/** In ms: who says nothing for so long has lost something and waits for it. */
const PATIENCE = 60_000

const children = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of children) child.kill()
})

/** Resolves when it has warmed up. `times`: what its environment is to say of how long things take. */
export async function start(
  { command }: Contender,
  placement: Placement,
  times: NodeJS.ProcessEnv,
  patience = PATIENCE
): Promise<Running> {
  const { prefix, environment } = placementOf(placement)
  const [program, ...args] = [...prefix, ...command] as [string, ...string[]]
  const env = { ...process.env, ...times, ...environment }
  const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
  children.add(child)
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', text => {
    errors += text
  })
  const failed = (what: string) => new Error(`${program} ${args.join(' ')} ${what}\n${errors}`)
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', error => {
      children.delete(child)
      const remedy = program === 'taskset' ? '. apt-get install util-linux' : ''
      reject(new Error(`${program} can't be run (${error.message})${remedy}`, { cause: error }))
    })
    child.once('close', (code, signal) => {
      children.delete(child)
      if (code === 0) resolve()
      else reject(failed(`ended with ${code ?? signal}`))
    })
  })
  ended.catch(() => {}) // whoever waits for a line or the end hears of it
  child.stdin.on('error', () => {}) // it has ended: likewise
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  /** Ends it if `done` takes too long. */
  const soon = async <T>(done: Promise<T>): Promise<T> => {
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, patience)
    try {
      return await done
    } catch (error) {
      throw late ? failed(`said nothing for ${patience / 1000} s`) : error
    } finally {
      clearTimeout(timer)
    }
  }
  const next = async (): Promise<string> => {
    const { done, value } = await lines.next()
    if (!done) return value
    await ended
    throw failed('ended early')
  }
  const line = () => soon(next())
  const stop = async () => {
    child.kill()
    await ended.catch(() => {})
  }
  const first = await line()
  if (first !== 'ready') {
    await stop()
    throw failed(`is not ready but says ${first}`)
  }
  return {
    async measure() {
      const sameCore = placement === 'unpinned' ? watchCores(child.pid!) : undefined
      child.stdin.write('\n')
      const words = (await line().finally(() => sameCore?.stop())).split(' ')
      const [value, lost] = words.filter(word => !word.includes('=')).map(Number.parseFloat) as [number, number?]
      if (!Number.isFinite(value)) throw failed(`measured ${value}`)
      const named = words.map(word => word.split('=')).filter(({ length }) => length === 2) as [string, string][]
      const sides = Object.fromEntries(named.map(([name, side]) => [name, Number.parseFloat(side)]))
      return { value, lost, sides, sameCore: sameCore?.share() }
    },
    async end() {
      child.stdin.end()
      await soon(ended)
    },
    stop
  }
}
