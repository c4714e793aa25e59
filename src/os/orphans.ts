/** Reaps orphans in a container: the kernel makes them children of PID 1, and no other process can reap them (wait(2)). */
import type { ChildProcess } from 'node:child_process'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { constants } from 'node:os'
import { Watcher } from './loop.ts'
import { native } from './native.ts'
import { type ProcessStat, statOf } from './process-stat.ts'

/** The time in ms that other code has to reap a process which may be that code's child. */
const GRACE = 1000

let users = 0
/** Children of node:child_process on this thread. libuv reaps each of them by its pid. */
const known = new Set<ChildProcess>()
/** Ended processes that may be children of other code, by pid. */
const doubtful = new Map<number, { started: string; since: number }>()
/** Callbacks for the end of a child, by its pid. They get the status of wait(2). */
const awaited = new Map<number, (status: number) => void>()
let timer: NodeJS.Timeout | undefined
let session = 0

/**
 * Begins to reap orphans, if this process is PID 1 of its namespace or a subreaper, and this is its main thread. Returns a function that
 * ends it. It never reaps children of node:child_process, nor those of other threads.
 */
export function collectOrphans(): () => void {
  if (native.isReaper() !== 1) return () => {}
  if (users++ === 0) begin()
  let ends = false
  return () => {
    if (!ends && --users === 0) end()
    ends = true
  }
}

/**
 * Waits for the end of a process, and resolves to its exit status in a shell's form. Resolves to 0 if it is no child of this process.
 * Call it while `collectOrphans()` is in effect.
 */
export async function endOf(pid: number): Promise<number> {
  for (const child of known)
    if (child.pid === pid) {
      const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
      return code ?? 128 + constants.signals[signal!]
    }
  const number = native.pidfd(pid)
  if (number < 0) return 0
  let watcher: Watcher | undefined
  try {
    const status = await new Promise<number>(resolve => {
      awaited.set(pid, resolve)
      watcher = new Watcher(number, () => {
        const stat = statOf(pid)
        resolve(stat?.parent === process.pid ? stat.status : 0)
      })
    })
    return (status & 0x7f) > 0 ? 128 + (status & 0x7f) : (status >> 8) & 0xff
  } finally {
    awaited.delete(pid)
    watcher?.end()
    native.close(number)
  }
}

function begin(): void {
  session = statOf(process.pid)?.session ?? 0
  const { _getActiveHandles: handles } = process as { _getActiveHandles?: () => unknown[] }
  for (const handle of handles?.call(process) ?? []) if (isChild(handle)) know(handle)
  subscribe('child_process', onChild)
  process.on('SIGCHLD', look)
  look()
}

function end(): void {
  unsubscribe('child_process', onChild)
  process.off('SIGCHLD', look)
  clearTimeout(timer)
  timer = undefined
  known.clear()
  doubtful.clear()
}

function isChild(handle: unknown): handle is ChildProcess {
  return typeof handle === 'object' && handle !== null && 'spawnargs' in handle
}

function onChild(message: unknown): void {
  know((message as { process: ChildProcess }).process)
}

function know(child: ChildProcess): void {
  known.add(child)
  const forget = (): void => void known.delete(child)
  child.once('exit', forget)
  child.once('error', () => child.pid === undefined && forget())
}

/** Reaps all that it can, because one SIGCHLD may report several ended children. */
function look(): void {
  for (;;) {
    const pid = native.endedChild()
    if (pid <= 0) break
    if (!collect(pid)) {
      lookBehind() // waitid(2) reports this one again and again, and no other
      break
    }
  }
  for (const [pid, { started }] of doubtful) if (statOf(pid)?.started !== started) doubtful.delete(pid)
  clearTimeout(timer)
  timer = doubtful.size > 0 ? setTimeout(look, GRACE).unref() : undefined
}

function lookBehind(): void {
  for (const name of readdirSync('/proc')) {
    const stat = Number(name) > 0 ? statOf(Number(name)) : undefined
    if (stat?.parent === process.pid && !stat.lives) collect(stat.pid)
  }
}

/** Reaps the process if it is an orphan. Returns whether it is reaped, by this call or before. */
function collect(pid: number): boolean {
  const stat = statOf(pid)
  if (stat === undefined || !isOrphan(stat)) return stat === undefined
  doubtful.delete(pid)
  awaited.get(pid)?.(stat.status)
  return native.collect(pid) === pid
}

/**
 * A child that this process started is in this process's session, or leads a session (setsid(2)). So a child in any other session is an orphan.
 * Of the rest, a process is an orphan if no code has reaped it for GRACE.
 */
function isOrphan({ pid, session: own, started }: ProcessStat): boolean {
  for (const child of known) if (child.pid === pid) return false
  if (own !== session && own !== pid) return true
  const seen = doubtful.get(pid)
  if (seen?.started === started) return performance.now() - seen.since >= GRACE - 1
  doubtful.set(pid, { started, since: performance.now() })
  return false
}
