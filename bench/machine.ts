/** What the figures depend on: the machine, and on which of its cores the two ends run. */
import { readFileSync } from 'node:fs'
import { cpus, loadavg, release } from 'node:os'
import type { Placement } from './measure.ts'

/** The cores this process may use: "0-3,8" in /proc/self/status. */
function allowedCores(): number[] {
  const [, list] = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? ['', '0']
  return listed(list!)
}

/** Such as "0-3,8". */
function listed(list: string): number[] {
  return list.split(',').flatMap(part => {
    const [first, last = first] = part.split('-').map(Number) as [number, number?]
    return Array.from({ length: last! - first + 1 }, (_, index) => first + index)
  })
}

/** The numbers of the cores that the bench may use. */
export const cores = allowedCores()

/** What the contenders run on, if a row gives them cores: not two threads of one core, if there are others. */
export const near = cores[0]!
export const far = cores.find(core => core !== near && !threadsOf(near).includes(core)) ?? cores[1] ?? near

function threadsOf(core: number): number[] {
  try {
    return listed(readFileSync(`/sys/devices/system/cpu/cpu${core}/topology/thread_siblings_list`, 'utf8').trim())
  } catch {
    return []
  }
}

/** A line for people: processor, cores, kernel, Node, and how busy it is with other things. */
export function describeMachine(): string {
  const load = loadavg().map(value => value.toFixed(1))
  const model = cpus()[0]?.model.trim() ?? 'unknown processor'
  return `${model}, ${cores.length} cores, Linux ${release()}, Node ${process.version}, load average ${load.join(' ')}`
}

/** What to put in front of a command, and the environment that tells it where its far end belongs. */
export function placementOf(placement: Placement): { prefix: string[]; environment: Record<string, string> } {
  if (placement === 'unpinned') return { prefix: [], environment: {} }
  if (placement === 'sharing two cores')
    return { prefix: ['taskset', '-c', [...new Set([near, far])].join(',')], environment: {} }
  const other = placement === 'one core' ? near : far
  return { prefix: ['taskset', '-c', String(near)], environment: { BENCH_FAR_CPU: String(other) } }
}

/** In ms: seldom, because it takes a core for a moment. */
const LOOK = 25

/** Looks from time to time whether a process and its first child are on one core. */
export function watchCores(pid: number): { stop(): void; share(): number | undefined } {
  let looks = 0
  let same = 0
  const look = () => {
    const [far] = childrenOf(pid)
    const [here, there] = [pid, far].map(coreOf)
    if (here === undefined || there === undefined) return // its far end is a thread, or has ended
    looks++
    if (here === there) same++
  }
  const timer = setInterval(look, LOOK)
  return { stop: () => clearInterval(timer), share: () => (looks === 0 ? undefined : (same / looks) * 100) }
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

/** Where it has run last: field 39 of proc_pid_stat(5), the 37th after the name. */
function coreOf(pid: number | undefined): number | undefined {
  try {
    return Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ')[36])
  } catch {
    return undefined
  }
}
