/** Identifies a process, by proc(5). */
import { closeSync, openSync, readSync } from 'node:fs'

/** Most files of /proc fit. All reads share it, because readFileSync allocates 64 KiB for each file, which costs more than the reading. */
const SHARED = Buffer.allocUnsafeSlow(4096)

/** A process, from its line in /proc/PID/stat (proc_pid_stat(5)). */
export interface ProcessStat {
  readonly pid: number
  /** False: a zombie, or nearly one. */
  readonly lives: boolean
  readonly parent: number
  readonly group: number
  readonly session: number
  /** The status of an ended process, as in wait(2); 0 if this process may not read it. */
  readonly status: number
  /** The CPU time of its threads, in ms, in steps of 10. Its children's is not in it. */
  readonly cpu: number
  /** In clock ticks since the machine was started. It distinguishes two processes with the same number. */
  readonly started: string
}

/** How long a clock tick is, in ms: sysconf(_SC_CLK_TCK) is 100 on every machine that Node runs on. */
const TICK = 10

/** Undefined if there is no such process, or it can't be read. */
export function statOf(pid: number): ProcessStat | undefined {
  const text = readProc(pid, 'stat')
  if (text === undefined) return undefined
  // The name of the program is in parentheses, and may itself have parentheses and spaces
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
    cpu: (Number(fields[11]) + Number(fields[12])) * TICK,
    started: fields[19] ?? ''
  }
}

/** A file of /proc/PID; undefined if it can't be read. */
export function readProc(pid: number | 'self', name: string): string | undefined {
  let fd: number
  try {
    fd = openSync(`/proc/${pid}/${name}`, 'r')
  } catch {
    return undefined // it has ended, or there is no descriptor left to ask with
  }
  try {
    return readWhole(fd)
  } catch {
    return undefined // it has ended meanwhile
  } finally {
    closeSync(fd)
  }
}

/** Reads until the end, because a file of /proc has no size, and one read may return less than there is. */
function readWhole(fd: number): string {
  let buffer = SHARED
  let length = 0
  for (;;) {
    const read = readSync(fd, buffer, length, buffer.length - length, null)
    if (read === 0) return buffer.toString('latin1', 0, length)
    length += read
    if (length < buffer.length) continue
    const larger = Buffer.allocUnsafeSlow(4 * length)
    buffer.copy(larger)
    buffer = larger
  }
}
