/** ava's `test`, one at a time, with the open descriptors counted before and after each. */
import { readdirSync, readlinkSync } from 'node:fs'
import { setTimeout as nap, setImmediate as turn } from 'node:timers/promises'
import ava, { type ExecutionContext } from 'ava'
import { native } from '../../src/os/native.ts'
import { isFull, isInCi } from './full.ts'
import { killAllBut, nowRunning } from './process.ts'

process.on('warning', warning => {
  // A warning is a failure: of a leak, of too many listeners, of anything
  process.exitCode = 1
  process.stderr.write(`unexpected warning: ${warning.stack}\n`)
})

/** What this process has open, by number: 'socket:[123]', '/path', … */
export function openDescriptors(): Map<number, string> {
  const found = new Map<number, string>()
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      found.set(Number(name), readlinkSync(`/proc/self/fd/${name}`))
    } catch {
      // the descriptor that readdir itself used
    }
  }
  return found
}

/** A turn of the loop counts for so many ms at most: if this process was stopped meanwhile, what it waits for had no time, either. */
const LONGEST_TURN = 250

/** Turns the event loop until `done` holds; fails the test after `seconds`. For states that no event announces. */
export async function until(done: () => boolean, what: string, seconds = 30): Promise<void> {
  let left = seconds * 1000
  let last = performance.now()
  for (let turns = 0; !done(); turns++) {
    const now = performance.now()
    left -= Math.min(now - last, LONGEST_TURN)
    last = now
    if (left < 0) throw new Error(`not within ${seconds} s: ${what}`)
    // What takes longer is another process: that needs the core
    await (turns < 100 ? turn() : nap(turns < 200 ? 1 : 4))
  }
}

/** What is open beyond `before` once the helper threads have closed what they were given. */
export async function leaked(before: Map<number, string>, seconds = 15): Promise<string[]> {
  const extra = () => [...openDescriptors()].filter(([fd, target]) => before.get(fd) !== target)
  try {
    await until(() => native.pendingCloses() === 0 && extra().length === 0, '', seconds)
    return []
  } catch {
    return extra().map(([fd, target]) => `${fd} -> ${target}`)
  }
}

type Body = (t: ExecutionContext) => void | Promise<void>

let hasFailed = false
let endsAfterFailure = false

/**
 * Servers and supervisors that a failed test has left in this process would keep it running for ever: ava ends processes by SIGTERM, which
 * supervisors handle. So it has 10 s to end by itself after its last test.
 */
function endAfterFailure(): void {
  if (endsAfterFailure) return
  endsAfterFailure = true
  ava.after.always(() => {
    if (hasFailed) setTimeout(() => process.kill(process.pid, 'SIGKILL'), 10_000).unref()
  })
}

/** Tells ava of a test. It has to be told of all of a process in one turn: of several files' when the last of them is loaded. */
let declare = (title: string, body: Body | undefined): void => {
  endAfterFailure()
  if (body === undefined) ava.skip(title, () => {})
  else ava.serial(title, body)
}

/** Collects the tests of files that are loaded by `load`, with the name of the file before each title, and tells ava of all of them. */
export async function together(names: string[], load: (name: string) => Promise<unknown>): Promise<void> {
  const tests: [title: string, body: Body | undefined][] = []
  const one = declare
  for (const name of names) {
    declare = (title, body) => void tests.push([`${name.replaceAll('/', ' › ')} › ${title}`, body])
    await load(name)
  }
  declare = one
  for (const each of tests) declare(...each)
}

/** The longest time of one test, in seconds. ava's own limit (ava.config.js) is longer: ava does not say which test it waited for. */
const LIMIT = isFull ? 900 : 200

async function inTime(done: void | Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`this test takes longer than ${LIMIT} s`)), LIMIT * 1000)
    timer.unref() // tests look at what keeps the event loop running
  })
  try {
    await Promise.race([done, limit])
  } finally {
    clearTimeout(timer)
  }
}

/** A test that must leave no descriptor behind. */
export function test(title: string, body: Body): void {
  declare(title, async t => {
    const before = openDescriptors()
    const held = native.held()
    const others = nowRunning()
    try {
      await inTime(body(t))
    } catch (error) {
      // It says more than what is left open. What is left running would keep this process, and so the whole run, from ending
      killAllBut(others)
      hasFailed = true
      throw error
    }
    t.deepEqual(await leaked(before), [], 'descriptors are left open')
    // After a failed test, what that one has left may end now
    if (!hasFailed) t.is(native.held(), held, 'the shim holds descriptors that nobody owns')
  })
}

/** A test that needs something which isn't everywhere; `.ci/run` fails if one is skipped there. */
export function testIf(reason: string | undefined, title: string, body: Body): void {
  if (reason === undefined) test(title, body)
  else declare(`${title} (skipped: ${reason})`, undefined)
}

/** A test that `.ci/run` runs, and a person's `npm test` leaves out (see full.ts): it is long, and what it tests is seldom broken by a change elsewhere. */
export function testInCi(title: string, body: Body): void {
  if (isInCi) test(title, body)
}

/** Both `testInCi` and `testIf`. */
export function testInCiIf(reason: string | undefined, title: string, body: Body): void {
  if (isInCi) testIf(reason, title, body)
}

/** A test of a full run only (see full.ts); a normal run has another case of what it promises. */
export function testFull(title: string, body: Body): void {
  if (isFull) test(title, body)
}

// The pools and sockets that Node opens once are opened before anything is counted
await turn()
