/** Where a run of attacks has its files. At its end nothing of the run is left: no file, and no process. It may also be interrupted. */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'

/** Where temporary files were before. Undefined: TMPDIR was not set. */
export const USUAL_TMPDIR: string | undefined = process.env.TMPDIR

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
/** How long killed processes may take to end, in ms. */
const PATIENCE = 5000

/**
 * From now on temporary files of this process, and of all that it starts, are in one folder. If a signal ends this process, `interrupted` runs, and then
 * the files and processes go.
 */
export function useScratch(interrupted: () => void): { clear(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  chmodSync(folder, 0o1777) // some processes run as another user
  process.env.TMPDIR = folder
  const clear = (): void => {
    killAll(folder)
    rmSync(folder, { recursive: true, force: true })
  }
  for (const signal of SIGNALS)
    process.once(signal, () => {
      interrupted()
      clear()
      process.exit(128 + constants.signals[signal])
    })
  return { clear }
}

/** Kills all descendants of this process, and whoever has the folder in its environment: its parent may have ended. */
function killAll(folder: string): void {
  const until = performance.now() + PATIENCE
  for (let left = processesOf(folder); left.length > 0 && performance.now() < until; left = processesOf(folder)) {
    for (const pid of left)
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // it has ended
      }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
  }
}

function processesOf(folder: string): number[] {
  const children = new Map<number, number[]>()
  const found = new Set<number>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    if (!(pid > 0) || pid === process.pid) continue
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      if (state === 'Z') continue
      children.set(Number(parent), [...(children.get(Number(parent)) ?? []), pid])
      if (readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`TMPDIR=${folder}`)) found.add(pid)
    } catch {
      // it has ended, or belongs to somebody else
    }
  }
  const take = (parent: number): void => {
    for (const pid of children.get(parent) ?? []) {
      found.add(pid)
      take(pid)
    }
  }
  take(process.pid)
  return [...found]
}
