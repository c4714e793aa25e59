/** Which C library this process is linked with: a shim of the other one can't be loaded, or would load a second one. */
import { closeSync, openSync, readSync } from 'node:fs'

export type Libc = 'glibc' | 'musl'

/** In bytes (elf(5)): of the ELF header, and of the name of a loader at most. */
const HEADER = 64
const NAME = 64
const PT_INTERP = 3
/** The first bytes of a file, and its class. */
const ELF = 0x7f454c46
const ELF_64 = 2

/** By the loader that the program names (elf(5): PT_INTERP). Undefined: it is static, or no ELF file of 64 bits that can be read. */
export function libcOf(program = process.execPath): Libc | undefined {
  let fd: number | undefined
  try {
    fd = openSync(program, 'r')
    const loader = loaderOf(fd)
    return loader === undefined ? undefined : /^[^\0]*ld-musl/.test(loader) ? 'musl' : 'glibc'
  } catch {
    return undefined // It can't be read, or is another kind of file
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

/** The name may be anywhere in the file: linkers write it at the beginning, tools that change programs do not. */
function loaderOf(fd: number): string | undefined {
  const header = bytesAt(fd, 0, HEADER)
  if (header.readUInt32BE(0) !== ELF || header[4] !== ELF_64) return undefined
  const [place, size, count] = [Number(header.readBigUInt64LE(32)), header.readUInt16LE(54), header.readUInt16LE(56)]
  const segments = bytesAt(fd, place, size * count)
  for (let start = 0; start < size * count; start += size)
    if (segments.readUInt32LE(start) === PT_INTERP)
      return bytesAt(fd, Number(segments.readBigUInt64LE(start + 8)), NAME).toString('latin1')
  return undefined
}

function bytesAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  return bytes.subarray(0, readSync(fd, bytes, 0, length, position))
}
