/** Anonymous memory in a file without a name: memfd_create(2). */
import { ftruncateSync } from 'node:fs'
import { checkInteger, checkOneOf, describe } from '../base/check.ts'
import { checked, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { native } from './native.ts'

/** A seal forbids one kind of change to a memory file for ever: see fcntl(2), F_ADD_SEALS. `'seal'` forbids further seals. */
export type Seal = keyof typeof SEALS

export interface MemfdOptions {
  /** In bytes. Default 0. */
  size?: number
  seals?: readonly Seal[]
}

const MEMFD_OPTIONS = { size: true, seals: true } as const satisfies KnownOptions<MemfdOptions>

const SEALS = { seal: 1, shrink: 2, grow: 4, write: 8, 'future-write': 16 } as const
const MAX_NAME = 249

/** The number of the memory, held. */
export function createMemory(name: string, options: MemfdOptions): number {
  const { size = 0, seals = [] } = readOptions(options, MEMFD_OPTIONS)
  if (typeof name !== 'string' || name.includes('\0') || Buffer.byteLength(name) > MAX_NAME)
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'name',
      expected: `a text of at most ${MAX_NAME} bytes without NUL`,
      actual: describe(name)
    })
  checkInteger(size, 'size', 0, Number.MAX_SAFE_INTEGER)
  if (!Array.isArray(seals))
    throw new PassfdError('INVALID_ARGUMENT', { what: 'seals', expected: 'an array of names', actual: describe(seals) })
  for (const seal of seals) checkOneOf(seal, 'seals', Object.keys(SEALS))
  const fd = checked(native.memfd(name, 0), 'memfd_create', name)
  try {
    if (size > 0) resize(fd, name, size)
    const bits = (seals as readonly Seal[]).reduce((sum, seal) => sum | SEALS[seal], 0)
    if (bits !== 0) checked(native.seal(fd, bits), 'fcntl')
    return fd
  } catch (error) {
    native.close(fd)
    throw error
  }
}

/** The error says how large it was to be: EFBIG (RLIMIT_FSIZE, getrlimit(2)) or ENOMEM. */
function resize(fd: number, name: string, size: number): void {
  try {
    ftruncateSync(fd, size)
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException
    throw errno === undefined ? error : systemError(errno, 'ftruncate', `${name}, ${size} bytes`)
  }
}
