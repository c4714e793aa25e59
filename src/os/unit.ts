/** Units of systemd, by the control group that it puts each of them into (cgroups(7)). */
import { readFileSync } from 'node:fs'

/**
 * Returns the name of the unit to which a process belongs: 'web.service', or 'session-3.scope' of a terminal. Undefined: the process has ended, can't be
 * seen, or belongs to none.
 */
export function unitOf(pid: number): string | undefined {
  try {
    return unitIn(readFileSync(`/proc/${pid}/cgroup`, 'utf8'))
  } catch {
    return undefined
  }
}

/** Returns the innermost unit in the text of such a file: lines of NUMBER:HIERARCHY:PATH. */
export function unitIn(text: string): string | undefined {
  const paths = new Map(text.split('\n').map(line => [/^\d+:([^:]*):/.exec(line)?.[1], line]))
  // Without one hierarchy for all (cgroup v2, whose name is empty) systemd has one of its own. With both, the first may be unused
  for (const hierarchy of ['', 'name=systemd']) {
    const unit = paths
      .get(hierarchy)
      ?.split('/')
      .findLast(part => /\.(service|scope)$/.test(part))
    if (unit !== undefined) return unit
  }
  return undefined
}
