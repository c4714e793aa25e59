/** `SharedMemory`: one piece of memory that several processes have mapped, and that none can take away from under the others. */

import { constants } from 'node:buffer'
import * as fs from 'node:fs'
import { checkInteger, checkType, describe } from '../base/check.ts'
import { mark } from '../base/copy.ts'
import { EACCES, ENODEV, EPERM } from '../base/errno.ts'
import { checked, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { assertOpen, Descriptor, moveOut, own } from '../descriptor/descriptor.ts'
import { createMemory } from '../os/memfd.ts'
import { native } from '../os/native.ts'

export interface CreateMemoryOptions {
  /** Shown in /proc/PID/maps, at most 249 bytes. Default 'passfd'. */
  name?: string
  /**
   * False: only this object writes. The kernel lets nobody else map the memory writable or write to it, whatever descriptor of it
   * he has (`F_SEAL_FUTURE_WRITE`, fcntl(2), Linux 5.1). Default true.
   */
  peersWrite?: boolean
}

export interface MapMemoryOptions {
  /**
   * True: what either side writes, the other sees. False: what is written here stays here, and hides from then on what the others
   * write into the same page (`MAP_PRIVATE`, mmap(2)). Default false.
   */
  writable?: boolean
  /** In bytes, from the beginning. Default: all of it; more than 1 GiB has to be asked for. */
  size?: number
}

const CREATE_OPTIONS = { name: true, peersWrite: true } as const satisfies KnownOptions<CreateMemoryOptions>
const MAP_OPTIONS = { writable: true, size: true } as const satisfies KnownOptions<MapMemoryOptions>
const DESCRIPTOR_OPTIONS = { writable: true } as const satisfies KnownOptions<{ writable?: boolean }>

// fcntl(2)
const F_SEAL_SEAL = 1
const F_SEAL_SHRINK = 2
const F_SEAL_WRITE = 8
const F_SEAL_FUTURE_WRITE = 16

/** The largest map, in bytes: 4 GiB, or less where Node's buffers are smaller. */
const MAX_SIZE = Math.min(2 ** 32, constants.MAX_LENGTH)
/** What is mapped of a size that only the peer has named. */
const MAX_UNASKED = 2 ** 30

/** Closes what nobody can send any more. The map itself goes with its ArrayBuffer. */
const registry = new FinalizationRegistry<number>(fd => {
  native.close(fd)
})

/**
 * Memory that both ends of a channel have mapped: what one writes, the other finds there without a copy. It is sealed against
 * shrinking, so that no peer can make a look at it fatal (`SIGBUS`). It is unmapped by `close()`, or when neither this object nor
 * anything that looks into its `buffer` is in use any more.
 */
export class SharedMemory implements Disposable {
  /** Bytes mapped. */
  readonly size: number
  #fd: number
  #buffer: ArrayBuffer
  #bytes: Buffer | undefined

  private constructor(fd: number, buffer: ArrayBuffer) {
    markUncloneable(this)
    this.#fd = fd
    this.#buffer = buffer
    this.size = buffer.byteLength
    registry.register(this, fd, this)
  }

  /**
   * New memory of `size` bytes (1 to 4 GiB), all zero, mapped writable here. It takes pages from the system as they are first touched.
   * Sealed against shrinking, growing and further seals (memfd_create(2)); no other user may open it (mode 0600).
   * @throws `ENOMEM`, `EMFILE`, … as system errors.
   */
  static create(size: number, options: CreateMemoryOptions = {}): SharedMemory {
    const { name = 'passfd', peersWrite = true } = readOptions(options, CREATE_OPTIONS)
    checkInteger(size, 'size', 1, MAX_SIZE)
    checkType(peersWrite, 'peersWrite', 'true or false', value => typeof value === 'boolean')
    const fd = createMemory(name, { size, seals: ['shrink', 'grow'] })
    try {
      fs.fchmodSync(fd, 0o600)
      const buffer = mapped(fd, size, true)
      checked(native.seal(fd, peersWrite ? F_SEAL_SEAL : F_SEAL_SEAL | F_SEAL_FUTURE_WRITE), 'fcntl') // the map is there: it stays writable
      return new SharedMemory(fd, buffer)
    } catch (error) {
      native.close(fd)
      throw error
    }
  }

  /**
   * Maps the memory of a descriptor, a received one most likely, which moves in. If this throws, the descriptor is still the caller's.
   * @throws `ERR_PASSFD_MEMORY_KIND` if it is no plain memory, `_MEMORY_SEALS` if it could shrink under the map, `_MEMORY_SIZE` if it
   * is smaller than `size`, `_MEMORY_READ_ONLY` if it is to be writable and may not be.
   */
  static map(descriptor: Descriptor, options: MapMemoryOptions = {}): SharedMemory {
    const { writable = false, size } = readOptions(options, MAP_OPTIONS)
    const buffer = mapReceived(descriptor, writable, size, MAX_UNASKED)
    return new SharedMemory(moveOut(descriptor, 'SharedMemory.map()'), buffer)
  }

  /** The mapped memory itself. */
  get buffer(): ArrayBuffer {
    this.#open()
    return this.#buffer
  }

  /** All of it as bytes: always the same view. */
  get bytes(): Buffer {
    this.#open()
    this.#bytes ??= Buffer.from(this.#buffer)
    return this.#bytes
  }

  /** True after `close()`. */
  get closed(): boolean {
    return this.#fd < 0
  }

  /**
   * A new descriptor of it, to send. `writable: false`: one that can't be mapped writable; a process of the same user can open it
   * anew for writing (proc_pid_fd(5)), unless the memory was created with `peersWrite: false`. Default: like the one it comes from.
   */
  descriptor(options: { writable?: boolean } = {}): Descriptor {
    const { writable = true } = readOptions(options, DESCRIPTOR_OPTIONS)
    const fd = this.#open()
    checkType(writable, 'writable', 'true or false', value => typeof value === 'boolean')
    return writable ? own(checked(native.dup(fd), 'dup')) : Descriptor.openSync(`/proc/self/fd/${fd}`, 'r')
  }

  /**
   * Unmaps it here: `buffer` and every view of it are empty from now on (length 0). Others keep theirs. Nothing asynchronous
   * (`fs.write`, `zlib`, a `send` that hasn't left) may still be looking at it.
   * @throws `ERR_PASSFD_MEMORY_CLOSED` if it was closed before.
   */
  close(): void {
    const fd = this.#open()
    this.#fd = -1
    registry.unregister(this)
    native.unmap(this.#buffer)
    native.close(fd)
  }

  /** Closes it if it is still open. */
  [Symbol.dispose](): void {
    if (!this.closed) this.close()
  }

  /** It can't stand in a message: its descriptor can. */
  toJSON(): never {
    throw new PassfdError('ENCODE', { detail: "SharedMemory can't be sent itself: send what its descriptor() gives" })
  }

  #open(): number {
    if (this.#fd < 0) throw new PassfdError('MEMORY_CLOSED')
    return this.#fd
  }
}
mark(SharedMemory, 'SharedMemory')

/**
 * @internal Maps what a peer has sent, if nothing that the peer does can make the map dangerous. The descriptor stays the caller's.
 * Without `size`: all of it, up to `most` bytes.
 */
export function mapReceived(
  descriptor: Descriptor,
  writable: boolean,
  size: number | undefined,
  most: number
): ArrayBuffer {
  checkDescriptor(descriptor)
  checkType(writable, 'writable', 'true or false', value => typeof value === 'boolean')
  if (size !== undefined) checkInteger(size, 'options.size', 1, MAX_SIZE)
  const fd = assertOpen(descriptor)
  if (descriptor.kind !== 'memfd') throw new PassfdError('MEMORY_KIND', { actual: descriptor.kind })
  const seals = checked(native.seals(fd), 'fcntl')
  if ((seals & F_SEAL_SHRINK) === 0) throw new PassfdError('MEMORY_SEALS')
  if (writable && seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
    throw new PassfdError('MEMORY_READ_ONLY', { detail: 'it is sealed against writing' })
  const actual = fs.fstatSync(fd).size // memory answers at once, and can't shrink any more
  const limit = size === undefined ? most : MAX_SIZE
  if (actual === 0 || actual < (size ?? 0) || (size === undefined && actual > limit))
    throw new PassfdError('MEMORY_SIZE', { actual, expected: size ?? `1 to ${limit}` })
  try {
    return mapped(fd, size ?? actual, writable)
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException
    if (!writable || (errno !== EACCES && errno !== EPERM)) throw error
    throw new PassfdError('MEMORY_READ_ONLY', { detail: 'its descriptor is for reading only' }, { cause: error })
  }
}

function mapped(fd: number, size: number, writable: boolean): ArrayBuffer {
  const holder: ArrayBuffer[] = []
  const result = native.map(fd, size, writable, holder)
  if (result === ENODEV) throw new PassfdError('MEMORY_KIND', { actual: 'memfd with pages of another kind' })
  if (result < 0) throw systemError(result, 'mmap')
  return holder[0]!
}

function checkDescriptor(value: unknown): asserts value is Descriptor {
  if (!(value instanceof Descriptor))
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'descriptor',
      expected: 'a Descriptor',
      actual: describe(value)
    })
}
