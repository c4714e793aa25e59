/** What /proc says of all processes of a run. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'

export interface Facts {
  readonly pid: number
  readonly parent: number
  readonly role: 'supervisor' | 'worker' | 'peer' | 'store'
  readonly descriptors: number
  /** MiB. */
  readonly rss: number
  /** The longest delay of its event loop in the last second, in ms, if it has reported one. */
  readonly delay: number | undefined
}

export interface Seen {
  readonly processes: readonly Facts[]
  /** Zombies whose parent is one of them, or this process. */
  readonly zombies: readonly number[]
}

const PAGE = 4096
const MIB = 1024 * 1024

/** `folder` is in the arguments of all of them. */
export function look(folder: string): Seen {
  const processes: Facts[] = []
  const dead: [pid: number, parent: number][] = []
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!(pid > 0)) continue
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      if (state === 'Z') dead.push([pid, Number(parent)])
      const command = readFileSync(`/proc/${pid}/cmdline`, 'latin1')
      const role = roleOf(command, folder)
      if (role === undefined) continue
      const rss = (Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[1]) * PAGE) / MIB
      processes.push({ pid, parent: Number(parent), role, rss, descriptors: openOf(pid), delay: delayOf(folder, pid) })
    } catch {
      // it has ended
    }
  }
  const parents = new Set([process.pid, ...processes.map(({ pid }) => pid)])
  return { processes, zombies: dead.filter(([, parent]) => parents.has(parent)).map(([pid]) => pid) }
}

function roleOf(command: string, folder: string): Facts['role'] | undefined {
  if (!command.includes(folder) || command.includes('client.mjs')) return undefined
  if (command.includes('/servers/prefork.mjs')) return 'supervisor'
  if (command.includes('"role":"store"')) return 'store'
  return command.includes('"role":"peer"') ? 'peer' : 'worker'
}

const openOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length

function delayOf(folder: string, pid: number): number | undefined {
  try {
    return Number(readFileSync(join(folder, `delay-${pid}`), 'latin1')) || undefined
  } catch {
    return undefined
  }
}

/** What its descriptors are, and how many of each kind: for a report. */
export function kindsOf(pid: number): string {
  const kinds = new Map<string, number>()
  for (const name of readdirSync(`/proc/${pid}/fd`))
    try {
      const kind = readlinkSync(`/proc/${pid}/fd/${name}`).replace(/\d+/g, 'N')
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
    } catch {
      // it is closed
    }
  return [...kinds].map(([kind, count]) => `${count} ${kind}`).join(', ')
}
