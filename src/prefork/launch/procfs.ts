/** Facts about a process from proc(5). */
import { readdirSync, readlinkSync } from 'node:fs'
import { readProc as read, statOf } from '../../os/process-stat.ts'

/** The resident memory of a process, in bytes; undefined if unknown, for example because the process has ended. */
export function rss(pid: number): number | undefined {
  const [, pages = 0] = statm(pid) ?? []
  return pages > 0 ? pages * (pageSize ??= ownPageSize()) : undefined
}

/** The CPU time of a process, in ms; undefined if unknown. */
export function cpu(pid: number): number | undefined {
  const time = statOf(pid)?.cpu
  return Number.isFinite(time) ? time : undefined
}

/** Whether a process has a handler for this signal. */
export function catches(pid: number, signal: number): boolean {
  const mask = /^SigCgt:\s*([0-9a-f]+)$/m.exec(read(pid, 'status') ?? '')?.[1] ?? '0'
  return ((BigInt(`0x${mask}`) >> BigInt(signal - 1)) & 1n) === 1n
}

/** Whether a debugger such as gdb is attached (ptrace(2)). */
export function isTraced(pid: number): boolean {
  return Number(/^TracerPid:\s*(\d+)$/m.exec(read(pid, 'status') ?? '')?.[1] ?? 0) > 0
}

/** Whether a process has a TCP connection that came to one of these ports. Reads all connections of its network namespace. */
export function hasConnection(pid: number, ports: readonly number[]): boolean {
  const wanted = new Set(ports.map(port => port.toString(16).toUpperCase().padStart(4, '0')))
  const inodes = new Set<string>()
  for (const table of ['net/tcp', 'net/tcp6'])
    for (const line of (read(pid, table) ?? '').split('\n')) {
      const [, local = '', , state, , , , , , inode = ''] = line.trim().split(/\s+/)
      if (state === ESTABLISHED && wanted.has(local.slice(local.lastIndexOf(':') + 1))) inodes.add(`socket:[${inode}]`)
    }
  return inodes.size > 0 && linksOf(pid).some(link => inodes.has(link))
}

const ESTABLISHED = '01'

/** The targets of its descriptors (proc_pid_fd(5)). */
function linksOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map(fd => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`)
      } catch {
        return '' // closed meanwhile
      }
    })
  } catch {
    return []
  }
}

let pageSize: number | undefined

function statm(pid: number | 'self'): number[] | undefined {
  return read(pid, 'statm')?.split(' ').map(Number)
}

/**
 * The page size: 4, 16 or 64 KiB. Node doesn't report it, and /proc/self/auxv can't be read after a change of user. So it compares this
 * process's size in KiB with its size in pages; between the two readings the process may have grown a little.
 */
function ownPageSize(): number {
  const kibibytes = Number(/^VmSize:\s+(\d+) kB$/m.exec(read('self', 'status') ?? '')?.[1])
  const [pages = Number.NaN] = statm('self') ?? []
  return 2 ** Math.round(Math.log2((kibibytes * 1024) / pages))
}
