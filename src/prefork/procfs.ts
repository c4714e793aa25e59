/** What Linux tells of a process (proc(5)). */
import { readFileSync } from 'node:fs'

/** The resident memory of a process, in bytes; undefined if it can't be told, as the process has ended for example. */
export function rss(pid: number): number | undefined {
  const [, pages = 0] = statm(pid) ?? []
  return pages > 0 ? pages * (pageSize ??= ownPageSize()) : undefined
}

let pageSize: number | undefined

function statm(pid: number | 'self'): number[] | undefined {
  return read(pid, 'statm')?.split(' ').map(Number)
}

/**
 * Of 4, 16 or 64 KiB, as the kernel was built: nothing in Node tells, and /proc/self/auxv can't be read once the user was changed. Our
 * own size in KiB and in pages tells it; between the two readings it may have grown a little.
 */
function ownPageSize(): number {
  const kibibytes = Number(/^VmSize:\s+(\d+) kB$/m.exec(read('self', 'status') ?? '')?.[1])
  const [pages = Number.NaN] = statm('self') ?? []
  return 2 ** Math.round(Math.log2((kibibytes * 1024) / pages))
}

function read(pid: number | 'self', name: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1')
  } catch {
    return undefined // it has ended, or there is no descriptor left to ask with
  }
}
