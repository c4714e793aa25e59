/** Units of systemd, by the control group that it puts each of them into (cgroups(7)). */
import { readFileSync } from 'node:fs'

/**
 * Returns the name of the unit to which a process belongs: 'web.service', or 'session-3.scope' of a terminal. Undefined: the process has ended, can't be
 * seen, or belongs to none.
 */
export function unitOf(pid: number): string | undefined {
  try {
    const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n')
    // Without one hierarchy for all (cgroup v2), systemd has one of its own
    const line =
      lines.find(each => each.startsWith('0::/') && each.length > 4) ??
      lines.find(each => each.includes(':name=systemd:'))
    return line?.split('/').findLast(part => /\.(service|scope)$/.test(part))
  } catch {
    return undefined
  }
}
