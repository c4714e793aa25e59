/** Fresh paths in a directory that goes when the test process does. */
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const directory = mkdtempSync(join(tmpdir(), 'passfd-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))

let count = 0

export function temporaryPath(name = 'file'): string {
  return join(directory, `${name}-${++count}`)
}

export function socketPath(): string {
  return temporaryPath('socket')
}

/** The file is there with what its program writes at once. */
export function isWritten(path: string): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0
}
