/** A million descriptors through one channel, between two processes; in a full run, else fewer. */
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { times } from '../../helpers/full.ts'
import { socketPath } from '../../helpers/path.ts'
import { type Running, start } from '../../helpers/process.ts'
import { testInCi, until } from '../../helpers/test.ts'

/** The fixtures say five times how it goes, and send 64 in a message. */
const COUNT = times(40_000, 1_000_000)
/** What may be on its way, or wait for the closing threads, beside what a process has open anyway. */
const ON_THEIR_WAY = 4096
const MEBIBYTE = 2 ** 20

const openFiles = ({ child }: Running): number => readdirSync(`/proc/${child.pid}/fd`).length

/** Reads what a process says five times on the way; fails unless nothing of it grows, and nothing is left at the end. */
async function assertFlat(t: ExecutionContext, running: Running, before: number): Promise<void> {
  t.is(await running.line(), '["connected"]')
  const reports: [count: number, memory: number, heap: number, open: number][] = []
  for (let i = 0; i < 5; i++) reports.push(JSON.parse(await running.line()))
  t.is(await running.line(), '["closed",null]', 'no error, and nothing was returned')
  await until(() => openFiles(running) === before, `${before} open files again`)
  const [[, memory, heap], [, lastMemory, lastHeap]] = [reports[0]!, reports[4]!]
  for (const [, , , open] of reports) t.true(open < before + ON_THEIR_WAY, `${open} files are open`)
  t.true(lastHeap - heap < 2 * MEBIBYTE, `the heap has grown from ${heap} to ${lastHeap}`)
  t.true(lastMemory - memory < 48 * MEBIBYTE, `the memory has grown from ${memory} to ${lastMemory}`)
  running.child.stdin!.end()
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
}

testInCi(`${COUNT} descriptors leave the table and the memory of both processes flat`, async t => {
  const path = socketPath()
  const run = (name: string): Running => {
    const script = fileURLToPath(new URL(`../../fixtures/${name}.mjs`, import.meta.url))
    return start(process.execPath, ['--expose-gc', script, path, `${COUNT}`])
  }
  const receiver = run('million-receiver')
  t.is(await receiver.line(), '["listening"]')
  const listening = openFiles(receiver)
  const sender = run('million-sender')
  t.is(await sender.line(), '["started"]')
  const flat = [assertFlat(t, receiver, listening), assertFlat(t, sender, openFiles(sender))]
  sender.child.stdin!.write('go')
  await Promise.all(flat)
})
