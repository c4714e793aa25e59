/** Which processes hold which sockets and pipes: the links of /proc/PID/fd (proc_pid_fd(5)). */
import { readdirSync, readlinkSync } from 'node:fs'
import { readProc, statOf } from '../../os/process-stat.ts'

/** A process, and the number by which it holds a descriptor. */
export interface Holder {
  readonly pid: number
  readonly fd: number
  readonly command: string
}

export interface Process {
  readonly pid: number
  readonly command: string
  /** Undefined: it has ended. */
  readonly uid: number | undefined
}

export class Holders {
  /** Processes whose descriptors this user may not see. */
  readonly hidden: readonly number[]
  readonly #holders = new Map<string, { pid: number; fd: number }[]>()

  /** Looks at all processes, once. */
  constructor() {
    const hidden: number[] = []
    for (const name of readdirSync('/proc')) {
      const pid = Number(name)
      if (!Number.isInteger(pid)) continue
      const links = linksOf(pid)
      if (links === undefined) hidden.push(pid)
      else for (const [fd, link] of links) if (/^(socket|pipe):/.test(link)) this.#add(link, { pid, fd })
    }
    this.hidden = hidden
  }

  /** The holders of `socket:[1]` or `pipe:[1]`. */
  of(link: string): Holder[] {
    return (this.#holders.get(link) ?? []).map(one => ({ ...one, command: commandOf(one.pid) }))
  }

  #add(link: string, holder: { pid: number; fd: number }): void {
    const found = this.#holders.get(link)
    if (found === undefined) this.#holders.set(link, [holder])
    else found.push(holder)
  }
}

/** The descriptors of a process, with what they are open on. Undefined: this user may not see them. Empty: the process has ended. */
export function linksOf(pid: number | 'self'): Map<number, string> | undefined {
  const links = new Map<number, string>()
  try {
    const names = readdirSync(`/proc/${pid}/fd`).map(Number)
    for (const fd of names.sort((one, other) => one - other)) {
      const link = linkOf(pid, fd)
      if (link !== undefined) links.set(fd, link)
    }
  } catch (error) {
    // The kernel also refuses what belongs to a process that is just ending
    if (isForbidden(error) && (pid === 'self' || statOf(pid)?.lives)) return undefined
  }
  return links
}

/** Undefined: it was closed meanwhile. The one with which this process reads its own folder is one of those. */
function linkOf(pid: number | 'self', fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`)
  } catch (error) {
    if (isForbidden(error)) throw error
    return undefined
  }
}

function isForbidden(error: unknown): boolean {
  const { code = '' } = error as NodeJS.ErrnoException
  return code === 'EACCES' || code === 'EPERM'
}

export function processOf(pid: number): Process {
  const uid = /^Uid:\s+\d+\s+(\d+)/m.exec(readProc(pid, 'status') ?? '')?.[1]
  return { pid, command: commandOf(pid), uid: uid === undefined ? undefined : Number(uid) }
}

/** The command line; of a kernel thread or a zombie its name in brackets, as ps(1) shows it. */
export function commandOf(pid: number): string {
  const line = Buffer.from(readProc(pid, 'cmdline') ?? '', 'latin1').toString()
  const words = line.replace(/\0+$/, '').replaceAll('\0', ' ')
  if (words !== '') return words
  const name = readProc(pid, 'comm')?.trim()
  return name === undefined ? '' : `[${name}]`
}
