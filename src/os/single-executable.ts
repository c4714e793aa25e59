/** Programs that are one executable file with Node in it: https://nodejs.org/api/single-executable-applications.html */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Whether this process runs such a program. */
export function isSingleExecutable(): boolean {
  return sea()?.isSea() === true
}

/**
 * Writes an asset of the executable into a file and calls `use` with its path. The file is removed again: dlopen(3) needs it only for its call. Returns
 * undefined if there is no such asset.
 */
export function takeAsset<T>(name: string, use: (path: string) => T): T | undefined {
  const asset = isSingleExecutable() ? assetOf(name) : undefined
  if (asset === undefined) return undefined
  // Only this user can write there
  const folder = mkdtempSync(join(tmpdir(), 'passfd-'))
  try {
    const path = join(folder, name)
    writeFileSync(path, new Uint8Array(asset), { mode: 0o700 })
    return use(path)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function assetOf(name: string): ArrayBuffer | undefined {
  try {
    return sea()!.getRawAsset(name) as ArrayBuffer
  } catch {
    return undefined
  }
}

/** Other runtimes have no such module. */
function sea(): typeof import('node:sea') | undefined {
  return process.getBuiltinModule?.('node:sea')
}
