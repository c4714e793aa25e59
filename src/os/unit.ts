/** Units of systemd, by the control group that it puts each of them into (cgroups(7)). */
import { readFileSync } from 'node:fs'

/**
 * Returns the name of the unit to which a process belongs: 'web.service', or 'session-3.scope' of a terminal. Undefined: the process has ended, can't be
 * seen, or belongs to none.
 */
export function unitOf(pid: number | 'self'): string | undefined {
  const groups = groupsOf(pid)
  return groups && unitIn(groups)
}

/** Whether this process may see to which unit a process belongs. Processes of other users are hidden with `hidepid` (proc(5)) and `ProtectProc=`. */
export function isSeen(pid: number): boolean {
  return groupsOf(pid) !== undefined
}

/** What a process knows of its unit. */
export interface OwnUnit {
  readonly unit?: string
  /** The process is, or may become, the main process of that unit: systemd has started it itself, or it notifies for the unit. */
  readonly own: boolean
}

/** Of this process. A job of cron, or of a deploy agent, belongs to the unit of another program. */
export function ownUnit({ NOTIFY_SOCKET, SYSTEMD_EXEC_PID }: NodeJS.ProcessEnv = process.env): OwnUnit {
  const unit = unitOf('self')
  // systemd 248 has SYSTEMD_EXEC_PID (systemd.exec(5)), which children inherit
  const own = (NOTIFY_SOCKET ?? '') !== '' || SYSTEMD_EXEC_PID === `${process.pid}`
  return unit === undefined ? { own } : { unit, own }
}

function groupsOf(pid: number | 'self'): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, 'utf8')
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
