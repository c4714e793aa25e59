/** How each contender is started. A new one is a file in peers/ and a line here. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Contender } from './measure.ts'

const folder = mkdtempSync(join(tmpdir(), 'passfd-bench-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const floorProgram = join(folder, 'floor')

/** Compiles floor.c. */
export function compileFloor(): void {
  const options = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-o', floorProgram, path('floor.c')]
  const { error, status, stderr } = spawnSync('gcc', options, { encoding: 'utf8' })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`gcc failed\n${stderr}`)
}

/** System calls and nothing else. */
export const floor = (...args: string[]): Contender => ({ command: [floorProgram, ...args] })

/** A program of peers/, by its name, and the workload it is to run. */
export const node = (name: string, workload: string): Contender => ({
  command: [process.execPath, path(`peers/${name}.mjs`), workload]
})

export const passfd = (workload: string): Contender => node('passfd', workload)
export const passfdMemory = (workload: string): Contender => node('passfd-memory', workload)
export const processSend = (workload: string): Contender => node('process-send', workload)
export const socketMsgpackr = (workload: string): Contender => node('socket-msgpackr', workload)
export const messagePort = (workload: string): Contender => node('message-port', workload)
export const memory = (workload: string): Contender => node('memory', workload)

function path(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url))
}
