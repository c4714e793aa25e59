/** What /proc tells of processes. */
import { readdirSync, readFileSync } from 'node:fs'
import { until } from './test.ts'

/** The children of a process that have ended and whose status nobody has asked for. */
export function zombies(parent: number): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number)
    .filter(pid => {
      const [state, ppid] = stat(pid)
      return state === 'Z' && Number(ppid) === parent
    })
}

/** The children of the main thread of a process, zombies too (proc(5)). */
export function childrenOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  return children.split(' ').filter(Boolean).map(Number)
}

/** Until a process has ended, whether or not its parent has asked for its status. */
export async function gone(pid: number): Promise<void> {
  await until(() => !lives(pid), `the end of ${pid}`)
}

/** It has not ended. */
export function lives(pid: number): boolean {
  return !['Z', 'X', ''].includes(stat(pid)[0]!)
}

/** The kernel is ending it (PF_EXITING): it closes its descriptors, and is no zombie yet. */
export function isEnding(pid: number): boolean {
  return (Number(stat(pid)[6]) & 4) !== 0
}

/** Stops processes as a debugger would; resolves when they have stopped. */
export async function suspend(...pids: number[]): Promise<void> {
  for (const pid of pids) process.kill(pid, 'SIGSTOP')
  for (const pid of pids) await stopped(pid)
}

export async function stopped(pid: number): Promise<void> {
  await until(() => stat(pid)[0] === 'T', `${pid} to stop`)
}

export function resume(...pids: number[]): void {
  for (const pid of pids) process.kill(pid, 'SIGCONT')
}

/** From its state on: the name of the program, before that, is in parentheses and may have any in it (proc_pid_stat(5)). */
function stat(pid: number): string[] {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return [''] // it has ended meanwhile
  }
}
