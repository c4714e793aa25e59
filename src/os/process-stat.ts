/** Who a process is, from proc(5). */
import { readFileSync } from 'node:fs'

/** A process, from its line in /proc/PID/stat (proc_pid_stat(5)). */
export interface ProcessStat {
  readonly pid: number
  /** False: a zombie, or nearly one. */
  readonly lives: boolean
  readonly parent: number
  readonly group: number
  readonly session: number
  /** Of one that has ended, as wait(2) has it; 0 if this process may not know it. */
  readonly status: number
  /** In clock ticks since the machine was started. It distinguishes two processes with the same number. */
  readonly started: string
}

/** Undefined if there is no such process, or it can't be read. */
export function statOf(pid: number): ProcessStat | undefined {
  const text = readProc(pid, 'stat')
  if (text === undefined) return undefined
  // The name of the program is in parentheses and may have any in it
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state = 'X', parent, group, session] = fields
  // Other threads may outlive the first one
  const lives = (state !== 'Z' || Number(fields[17]) > 1) && state !== 'X'
  return {
    pid,
    lives,
    parent: Number(parent),
    group: Number(group),
    session: Number(session),
    status: Number(fields[49] ?? 0),
    started: fields[19] ?? ''
  }
}

/** A file of /proc/PID; undefined if it can't be read. */
export function readProc(pid: number | 'self', name: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1')
  } catch {
    return undefined // it has ended, or there is no descriptor left to ask with
  }
}
