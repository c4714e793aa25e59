/** Why a contender can't take part on this machine, and what to do about that; undefined if it can. Each is found out once. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install } from './packages.ts'

const folder = mkdtempSync(join(tmpdir(), 'passfd-bench-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
export const floorProgram = join(folder, 'floor')
export const loadProgram = join(folder, 'load')
export const websocketsProgram = join(folder, 'websockets')
export const conditionsProgram = join(folder, 'conditions')
const require = createRequire(import.meta.url)

/** Compiles floor.c into `floorProgram`. */
export const floorMissing = once(() => compile('floor.c', floorProgram))
/** Compiles load.c into `loadProgram`. */
export const loadMissing = once(() => compile('load.c', loadProgram))
/** Compiles websockets.c into `websocketsProgram`. */
export const websocketsMissing = once(() => compile('websockets.c', websocketsProgram))
/** Compiles conditions.c into `conditionsProgram`. */
export const conditionsMissing = once(() => compile('conditions.c', conditionsProgram))

function compile(source: string, program: string): string | undefined {
  const path = fileURLToPath(new URL(source, import.meta.url))
  const options = ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-o', program, path]
  const { error, status, stderr } = spawnSync('gcc', options, { encoding: 'utf8' })
  if (error !== undefined) return `C: gcc can't be run (${error.message}). apt-get install build-essential`
  const absent = /^.*(No such file or directory|cannot find).*$/m.exec(stderr)
  if (absent !== null) return `C: gcc lacks something (${absent[0]}). apt-get install build-essential`
  if (status !== 0) throw new Error(`gcc failed\n${stderr}`)
  return undefined
}

export const pythonMissing = once(() => {
  const { error, status } = spawnSync('python3', ['-c', 'import socket; socket.send_fds'])
  if (error !== undefined) return `Python: python3 can't be run (${error.message}). apt-get install python3`
  return status === 0 ? undefined : 'Python: its socket has no send_fds. It takes Python 3.9 or later'
})

export const usocketMissing = once(() => fromBench('usocket') ?? addonMissing('usocket'))
export const dgramMissing = once(() => addonMissing('unix-dgram'))

export const nodeIpcMissing = once(() => fromBench('node-ipc'))
export const pm2Missing = once(() => fromBench('pm2'))

/** A package of bench/package.json. */
function fromBench(name: string): string | undefined {
  const reason = install()
  return reason === undefined ? undefined : `${name}: ${reason}`
}

/** A package that npm compiles when it installs it, if its install scripts are allowed. */
function addonMissing(name: string): string | undefined {
  try {
    require(name)
    return undefined
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'MODULE_NOT_FOUND' && message.includes(`'${name}'`)) return `${name}: not installed. npm ci`
    return `${name}: its addon can't be loaded (${message.split('\n')[0]}). npm rebuild ${name}`
  }
}

function once(find: () => string | undefined): () => string | undefined {
  let found: { reason: string | undefined } | undefined
  return () => {
    found ??= { reason: find() }
    return found.reason
  }
}
