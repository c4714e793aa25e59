/** What the tests of shared memory ask the kernel. */
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** How many maps of a memfd of this name a process has. */
export function mapsOf(name: string, pid: number | 'self' = 'self'): number {
  const lines = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')
  return lines.filter(line => line.includes(`/memfd:${name} (deleted)`)).length
}

setFlagsFromString('--expose-gc')
/** Collects garbage now. */
export const collect: () => void = runInNewContext('gc')
