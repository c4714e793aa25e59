/** As PID 1 of a container, a supervisor reaps the orphans that the kernel makes its children (wait(2)), because no other process does. */
import type { ChildProcess } from 'node:child_process'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readdirSync } from 'node:fs'
import { native } from '../../os/native.ts'
import { type ProcessStat, statOf } from './procfs.ts'

/** A process that may be a child of other code is left to that code for this many ms. */
const GRACE = 1000

let users = 0
/** Made by node:child_process on this thread: libuv waits for each by its pid. */
const known = new Set<ChildProcess>()
/** The processes that may be children of other code, by their pid. */
const doubtful = new Map<number, { started: string; since: number }>()
let timer: NodeJS.Timeout | undefined
let session = 0

/**
 * Begins to collect orphans that have ended, if this process is PID 1 of its namespace or a subreaper, and this is its main thread. Returns
 * what ends it. It never waits for children of node:child_process, nor for those of other threads.
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

/** One SIGCHLD may stand for many ends. */
function look(): void {
  for (;;) {
    const pid = native.endedChild()
    if (pid <= 0) break
    if (!collect(pid)) {
      lookBehind() // it hides the others
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

/** Returns whether it is gone. */
function collect(pid: number): boolean {
  const stat = statOf(pid)
  if (stat === undefined || !isOrphan(stat)) return stat === undefined
  doubtful.delete(pid)
  return native.collect(pid) === pid
}

/**
 * A child that this process has started is in its session, or leads one of its own (setsid(2)); one of another session can only have come by the
 * end of its parent. Of the rest those are orphans that nobody has waited for in a while.
 */
function isOrphan({ pid, session: own, started }: ProcessStat): boolean {
  for (const child of known) if (child.pid === pid) return false
  if (own !== session && own !== pid) return true
  const seen = doubtful.get(pid)
  if (seen?.started === started) return performance.now() - seen.since >= GRACE - 1
  doubtful.set(pid, { started, since: performance.now() })
  return false
}
