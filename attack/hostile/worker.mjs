// A worker of scenarios/control.mjs. Those that are there first serve. Each later one gives its end of the control channel to the attack, and ends when that is done.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as nap } from 'node:timers/promises'
import { native } from '../../build/dist/os/native.js'

/** Of errno(3), as the shim reports it. */
const EAGAIN = -11
const CONTROL = 3
const SEQPACKET = 5
const folder = process.env.HOSTILE_FOLDER

async function give() {
  const supervisor = process.ppid
  const hands = native.socket(SEQPACKET)
  while (native.connect(hands, Buffer.from(join(folder, 'hands'))) < 0) {
    if (process.ppid !== supervisor) process.exit()
    await nap(20)
  }
  native.sendMessage(hands, Buffer.of(1), 0, 1, Int32Array.of(CONTROL), 0, 1, null)
  const results = new Int32Array(600)
  const receive = () => native.receiveMessage(hands, Buffer.alloc(1), 0, 1, results, Buffer.alloc(108), false)
  while (receive() === EAGAIN && process.ppid === supervisor) await nap(5)
  process.exit()
}

if (process.env.NOTES !== undefined || !existsSync(join(folder, 'hostile'))) await import('../pairs/worker.mjs')
else await give()
