/** Which C library this process is linked with: a shim of the other one can't be loaded, or would load a second one. */
import { closeSync, openSync, readSync } from 'node:fs'

export type Libc = 'glibc' | 'musl'

/** Enough for the ELF header, the program headers and the name of the loader, which linkers write at the beginning. In bytes. */
const BEGINNING = 4096
const PT_INTERP = 3
/** The first bytes of a file, and its class. */
const ELF = 0x7f454c46
const ELF_64 = 2

/** By the loader that the program names (elf(5): PT_INTERP). Undefined: it is static, or no ELF file of 64 bits that can be read. */
export function libcOf(program = process.execPath): Libc | undefined {
  try {
    const bytes = beginningOf(program)
    if (bytes.readUInt32BE(0) !== ELF || bytes[4] !== ELF_64) return undefined
    const [places, size, count] = [Number(bytes.readBigUInt64LE(32)), bytes.readUInt16LE(54), bytes.readUInt16LE(56)]
    for (let index = 0; index < count; index++) {
      const header = places + index * size
      if (bytes.readUInt32LE(header) !== PT_INTERP) continue
      const name = Number(bytes.readBigUInt64LE(header + 8))
      return /ld-musl/.test(bytes.subarray(name, name + 64).toString('latin1')) ? 'musl' : 'glibc'
    }
  } catch {
    // It can't be read, or is another kind of file
  }
  return undefined
}

function beginningOf(program: string): Buffer {
  const fd = openSync(program, 'r')
  try {
    const bytes = Buffer.alloc(BEGINNING)
    return bytes.subarray(0, readSync(fd, bytes, 0, BEGINNING, 0))
  } finally {
    closeSync(fd)
  }
}
