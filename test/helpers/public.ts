/** Directories that other users may enter: those of helpers/path.ts are ours alone. */
import { chmodSync, chownSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** The user without rights that tests run as, besides root. */
export const NOBODY = 65534

const directories: string[] = []
process.on('exit', () => {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
})

/** A fresh directory of `NOBODY`'s, gone when the test process is. */
export function publicDirectory(mode = 0o755): string {
  const directory = mkdtempSync(join(tmpdir(), 'passfd-public-'))
  directories.push(directory)
  chownSync(directory, NOBODY, NOBODY)
  chmodSync(directory, mode)
  return directory
}

/** A fresh socket path in such a directory. */
export function publicPath(): string {
  return join(publicDirectory(), 'socket')
}
