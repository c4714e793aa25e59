/** How many descriptors this process has open, and how many of them the shim holds. */
import { readdirSync, readlinkSync } from 'node:fs'
import { setTimeout as nap } from 'node:timers/promises'
import { native } from '../../build/dist/os/native.js'
import { PATIENCE } from './round.mjs'

/** For so many turns. */
const CALM = 10

function openFiles() {
  return { open: readdirSync('/proc/self/fd').length, held: native.held() }
}

/** When nothing is under way any more: it has not changed for some turns of the loop. */
export async function calmOpenFiles() {
  let known
  for (let calm = 0; calm < CALM; ) {
    await nap(2)
    const now = openFiles()
    calm = native.pendingCloses() === 0 && now.open === known?.open && now.held === known.held ? calm + 1 : 0
    known = now
  }
  return known
}

/** Waits until as much is open as `before`, and gives that; `leak` says what else is. */
export async function backTo(before) {
  const until = performance.now() + PATIENCE
  for (let turns = 0; ; turns++) {
    const now = native.pendingCloses() === 0 ? openFiles() : undefined
    // Less is open if Node was about to close a socket when it was counted
    if (now !== undefined && now.open <= before.open && now.held === before.held) return { open: now.open }
    if (performance.now() > until)
      return { leak: `${JSON.stringify(now)} instead of ${JSON.stringify(before)}: ${targets().join(', ')}` }
    await (turns < 20 ? new Promise(setImmediate) : nap(1))
  }
}

/** What is open. */
function targets() {
  return readdirSync('/proc/self/fd').map(number => {
    try {
      return `${number} ${readlinkSync(`/proc/self/fd/${number}`)}`
    } catch {
      return number // that of the folder
    }
  })
}
