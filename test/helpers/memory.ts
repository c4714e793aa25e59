/** What the tests of shared memory ask the kernel. */
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { type Running, start } from './process.ts'

/** How many maps of a memfd of this name a process has. */
export function mapsOf(name: string, pid: number | 'self' = 'self'): number {
  const lines = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')
  return lines.filter(line => line.includes(`/memfd:${name} (deleted)`)).length
}

setFlagsFromString('--expose-gc')
/** Collects garbage now. */
export const collect: () => void = runInNewContext('gc')

const HUGE = `
import os, sys, fcntl
fd = os.memfd_create('huge', os.MFD_HUGETLB | os.MFD_ALLOW_SEALING)
os.ftruncate(fd, 2 << 20)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
print(fd, flush=True)
sys.stdin.read()
`
/** Why there can't be huge pages. */
export const noHugePages: string | undefined = readFileSync('/proc/filesystems', 'utf8').includes('hugetlbfs')
  ? undefined
  : 'a kernel without hugetlbfs'

/** A process that has sealed memory of huge pages, and the path of it; it ends with its stdin. */
export async function startHuge(): Promise<[path: string, python: Running]> {
  const python = start('/usr/bin/python3', ['-c', HUGE])
  return [`/proc/${python.child.pid}/fd/${await python.line()}`, python]
}
