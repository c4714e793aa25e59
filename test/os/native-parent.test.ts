/** The shim's dieAfterParent: a process ends with its parent although its event loop hangs. */
import { readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { native } from '../../src/os/native.ts'
import { type Running, start, startFixture } from '../helpers/process.ts'
import { test, until } from '../helpers/test.ts'

const EINVAL = -22
/** What it takes of them: the highest. */
const SIGRTMAX = 64
const NOBODY = 0x7fffffff // above any pid (proc_sys_kernel(5), pid_max)
const dies = fileURLToPath(new URL('../fixtures/parent-dies.mjs', import.meta.url))

/** Numbers of signals in a set of /proc/PID/status, such as SigCgt. */
function signals(status: string, set: string): number[] {
  const mask = BigInt(`0x${new RegExp(`^${set}:\\s*([0-9a-f]+)$`, 'm').exec(status)![1]}`)
  return Array.from({ length: 64 }, (_, index) => index + 1).filter(number => (mask >> BigInt(number - 1)) & 1n)
}

function statusOf(pid: number): string {
  return readFileSync(`/proc/${pid}/status`, 'latin1')
}

/** A parent and its child that is to die `seconds` after it. */
async function family(by: 'itself' | 'thread', what: 'hangs' | 'waits', seconds: number) {
  const parent = startFixture('parent-starts', [by, dies, what, String(seconds)])
  const thread = by === 'thread' ? /thread (.*)/.exec(await parent.line())![1]! : ''
  const [pid, result] = (await parent.line()).split(' ').map(Number)
  return { parent, thread, pid: pid!, result }
}

/** Both are gone when nobody has their stdout any more. In ms. */
async function killed({ child, exit }: Running): Promise<number> {
  const began = performance.now()
  child.kill('SIGKILL')
  await exit
  return performance.now() - began
}

test('trap 36: a process that hangs ends so many seconds after its parent was killed, and no sooner', async t => {
  const { parent, pid, result } = await family('itself', 'hangs', 1)
  t.is(result, 0)
  t.deepEqual(signals(statusOf(pid), 'SigCgt').slice(-1), [SIGRTMAX])
  const took = await killed(parent)
  t.true(took > 900, `${took} ms`)
  t.true(took < 8000, `${took} ms`) // it has that long on a machine that has much to do
})

test('a parent that has ended before is one that ends now; SIGALRM kills, whoever listens to it', async t => {
  const running = start(process.execPath, [dies, 'hangs', '1', String(NOBODY)])
  t.is((await running.line()).split(' ')[1], '1')
  t.like(await running.exit, { code: null, signal: 'SIGALRM' })
})

test("trap 36: the time does not run, and SIGALRM is the program's, while the parent lives; one whose loop turns has the time to end by itself", async t => {
  const { parent, pid, result } = await family('itself', 'waits', 60)
  t.is(result, 0)
  // Whoever sends the signal
  process.kill(pid, SIGRTMAX)
  await until(() => signals(statusOf(pid), 'ShdPnd').length === 0, 'the signal has come')
  process.kill(pid, 'SIGALRM')
  t.is(await parent.line(), 'SIGALRM was heard')
  parent.child.kill('SIGKILL')
  t.is(await parent.line(), 'ends by itself')
  await parent.exit
})

test('that the thread of the parent which started it ends is not the end of the parent', async t => {
  const { parent, thread, pid, result } = await family('thread', 'waits', 60)
  t.is(result, 0)
  const id = thread.split('/').at(-1)!
  for (let there = true; there; ) there = (await readdir(`/proc/${parent.child.pid}/task`)).includes(id)
  await until(() => signals(statusOf(pid), 'ShdPnd').length === 0, 'the signal has come')
  process.kill(pid, 'SIGALRM')
  t.is(await parent.line(), 'SIGALRM was heard')
  parent.child.kill('SIGKILL')
  t.is(await parent.line(), 'ends by itself', 'but that of the process is')
  await parent.exit
})

test('children inherit nothing of it, and do not end with it', async t => {
  const running = startFixture('parent-children')
  const { before, after, pid } = JSON.parse(await running.line())
  for (const set of ['SigCgt', 'SigIgn', 'SigBlk']) t.deepEqual(signals(after, set), signals(before, set), set)
  t.like(await running.exit, { signal: 'SIGALRM' })
  t.notThrows(() => process.kill(pid, 0))
  t.regex(statusOf(pid), /^State:\s*[SR]/m)
  process.kill(pid, 'SIGKILL')
})

test('it refuses no time, no process, and a thread whose end would undo it', async t => {
  for (const [seconds, parent] of [
    [0, process.ppid],
    [-1, process.ppid],
    [1, 0],
    [1, -1]
  ] as const)
    t.is(native.dieAfterParent(seconds, parent), EINVAL)
  t.false(signals(statusOf(process.pid), 'SigCgt').includes(SIGRTMAX))
  const worker = new Worker(
    `import(${JSON.stringify(new URL('../../build/dist/native-alone.js', import.meta.url).href)}).then(({ native }) =>
      require('node:worker_threads').parentPort.postMessage(native.dieAfterParent(60, process.ppid)))`,
    { eval: true }
  )
  const [result] = await Promise.all([
    new Promise(resolve => worker.once('message', resolve)),
    new Promise(resolve => worker.once('exit', resolve))
  ])
  t.is(result, EINVAL)
})
