/** Anonymous memory in a file without a name: memfd_create(2). */
import { checkInteger, checkOneOf, describe } from './convert.ts'
import { checked, PassfdError } from './errors.ts'
import { native } from './native.ts'

/** A change that can never be made again to a memory file: see fcntl(2), F_ADD_SEALS. `'seal'` forbids more seals. */
export type Seal = keyof typeof SEALS

export interface MemfdOptions {
  /** In bytes. Default 0. */
  size?: number
  seals?: readonly Seal[]
}

const SEALS = { seal: 1, shrink: 2, grow: 4, write: 8, 'future-write': 16 } as const
const MAX_NAME = 249

/** The number of the memory, held. */
export function createMemory(name: string, { size = 0, seals = [] }: MemfdOptions): number {
  if (typeof name !== 'string' || name.includes('\0') || Buffer.byteLength(name) > MAX_NAME)
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'name',
      expected: `a text of at most ${MAX_NAME} bytes`,
      actual: describe(name)
    })
  checkInteger(size, 'size', 0, Number.MAX_SAFE_INTEGER)
  for (const seal of seals) checkOneOf(seal, 'seals', Object.keys(SEALS))
  const fd = checked(native.memfd(name, size), 'memfd_create')
  const bits = seals.reduce((sum, seal) => sum | SEALS[seal], 0)
  const result = bits === 0 ? 0 : native.seal(fd, bits)
  if (result < 0) native.close(fd)
  checked(result, 'fcntl')
  return fd
}
