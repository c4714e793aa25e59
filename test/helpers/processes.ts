/** What /proc tells of processes. */
import { readdirSync, readFileSync } from 'node:fs'

/** The children of a process that have ended and whose status nobody has asked for. */
export function zombies(parent: number): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .map(Number)
    .filter(pid => {
      // The name of the program is in parentheses and may have any in it (proc(5))
      const text = stat(pid)
      const [state, ppid] = text.slice(text.lastIndexOf(')') + 2).split(' ')
      return state === 'Z' && Number(ppid) === parent
    })
}

function stat(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return '' // it has ended meanwhile
  }
}
