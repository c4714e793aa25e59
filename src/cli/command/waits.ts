/** What a reload, scale or stop that lasts is waiting for, in words. */
import type { AdminStatus, AdminWorker } from '../../prefork/index.ts'
import { countOf } from '../words.ts'

/** `old`: the ids of the workers that were there before. 'worker 2 starts, worker 1 finishes (3 connections)'; '' if nothing is known. */
export function waitsFor({ workers, size, foreign }: AdminStatus, old: ReadonlySet<number>): string {
  const replaced = workers.filter(({ id, state }) => !old.has(id) && state === 'ready').length
  const parts = replaced === 0 ? [] : [`${replaced} of ${countOf(size, 'worker')} new`]
  for (const { slot } of workers.filter(({ state }) => state === 'starting')) parts.push(`worker ${slot} starts`)
  for (const worker of workers.filter(({ state }) => state === 'stopping' || state === 'hung'))
    parts.push(endText(worker, foreign))
  return parts.join(', ')
}

function endText({ slot, pid, state, connections }: AdminWorker, foreign: boolean): string {
  if (state === 'hung') return `worker ${slot} (pid ${pid}) hangs`
  return `worker ${slot} finishes${foreign ? '' : ` (${countOf(connections, 'connection')})`}`
}
