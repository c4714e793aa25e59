/** What the figures of a run depend on beside the code: how busy the machine is, how it sleeps and wakes up, what a page fault costs. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { cores, far, near } from './machine.ts'
import { conditionsMissing, conditionsProgram } from './missing.ts'
import { figure } from './report.ts'

export interface Conditions {
  /** ISO 8601, of the start. */
  date: string
  /** Before anything was measured: the load average of a minute, and the share of all cores' time that was used for SAMPLE, in percent. */
  load: number
  busy: number
  /** Why the figures of this run are uncertain: how busy the machine was. */
  warning?: string
  /** What the kernel says of itself: cpufreq's governor, what a core does that has nothing to do, … Those it does not say are absent. */
  kernel: Record<string, string>
  /** What conditions.c measures, by its names; none without a compiler. */
  costs: Record<string, number>
}

/** In ms. */
const SAMPLE = 500
/** In percent of all cores, and the load average for each core: more than this, and the machine is not quiet. */
const QUIET = 5
const QUIET_LOAD = 0.25

const SYSTEM = '/sys/devices/system'
const FILES: Readonly<Record<string, string>> = {
  governor: `${SYSTEM}/cpu/cpu${near}/cpufreq/scaling_governor`,
  'idle driver': `${SYSTEM}/cpu/cpuidle/current_driver`,
  'idle governor': `${SYSTEM}/cpu/cpuidle/current_governor`,
  'halt polling, ns': '/sys/module/haltpoll/parameters/guest_halt_poll_ns',
  clock: `${SYSTEM}/clocksource/clocksource0/current_clocksource`,
  'huge pages': '/sys/kernel/mm/transparent_hugepage/enabled',
  'threads of the first core': `${SYSTEM}/cpu/cpu${near}/topology/thread_siblings_list`
}

/** What each cost is for people, and its unit. */
const COSTS: Readonly<Record<string, readonly [what: string, unit: string]>> = {
  wakeOneCore: ['a wake-up by eventfd on one core', 'µs'],
  wakeTwoCores: ['on another core', 'µs'],
  futexOneCore: ['by futex on one core', 'µs'],
  futexTwoCores: ['on another core', 'µs'],
  spinTwoCores: ['a store seen by another core that spins', 'ns'],
  pageFault: ['a page fault', 'ns'],
  hugePageFault: ['a page of 4 KiB within a huge one', 'ns'],
  systemCall: ['a system call', 'ns']
}

/** To be asked first, before the bench itself keeps the cores busy. `again`: it has, so the load average says nothing of other programs. */
export async function readConditions(again = false): Promise<Conditions> {
  const date = new Date().toISOString()
  const [load] = loadavg() as [number]
  const before = cpuTimes()
  await sleep(SAMPLE)
  const after = cpuTimes()
  const busy = percent(after.used - before.used, after.all - before.all)
  const kernel = Object.fromEntries(Object.entries(FILES).flatMap(([name, path]) => entryOf(name, path)))
  const uncertain = busy > QUIET || (!again && load > QUIET_LOAD * cores.length)
  const warning = `other programs use this machine (${figure(busy)} % of its cores; load average ${load.toFixed(1)})`
  return { date, load, busy, ...(uncertain ? { warning } : {}), kernel, costs: measuredCosts() }
}

/** A function that gives the share of the cores' time that the hypervisor has given to others since, in percent. */
export function countStolen(): () => number {
  const before = cpuTimes()
  return () => {
    const after = cpuTimes()
    return percent(after.stolen - before.stolen, after.all - before.all)
  }
}

/** Lines for people. */
export function describeConditions({ warning, kernel, costs }: Conditions): string {
  const measured = Object.entries(COSTS).flatMap(([name, [what, unit]]) =>
    costs[name] === undefined ? [] : [`${what} ${figure(costs[name])} ${unit}`]
  )
  const lines = [
    Object.entries(kernel)
      .map(([name, value]) => `${name} ${value}`)
      .join(', '),
    measured.join(', ')
  ]
  if (warning !== undefined) lines.push(`NOT QUIET: ${warning}`)
  return lines.filter(line => line !== '').join('\n')
}

function measuredCosts(): Record<string, number> {
  if (conditionsMissing() !== undefined) return {}
  const { status, stdout, stderr } = spawnSync(conditionsProgram, [`${near}`, `${far}`], {
    encoding: 'utf8',
    timeout: 60_000
  })
  if (status !== 0) throw new Error(`conditions.c failed\n${stderr}`)
  const named = stdout.trimEnd().split('\n')
  return Object.fromEntries(
    named.map(line => {
      const [name, value] = line.split(' ') as [string, string]
      return [name, Number(Number(value).toPrecision(4))]
    })
  )
}

/** The first line of /proc/stat, in ticks: proc_stat(5). */
function cpuTimes(): { used: number; all: number; stolen: number } {
  const [first] = readFileSync('/proc/stat', 'utf8').split('\n') as [string]
  const [user, nice, system, idle, waiting, interrupts, soft, stolen] = first.split(/\s+/).slice(1).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number
  ]
  const used = user + nice + system + interrupts + soft + stolen
  return { used, all: used + idle + waiting, stolen }
}

function entryOf(name: string, path: string): [string, string][] {
  try {
    const text = readFileSync(path, 'utf8').trim()
    // Of several choices the kernel shows the chosen one in brackets
    return text === '' ? [] : [[name, /\[(.+)\]/.exec(text)?.[1] ?? text]]
  } catch {
    return [] // this kernel or this machine has none
  }
}

function percent(part: number, whole: number): number {
  return whole === 0 ? 0 : Number(((part / whole) * 100).toPrecision(3))
}
