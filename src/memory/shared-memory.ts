/** `SharedMemory`: memory that several processes map, and that no process can shrink while others use it. */

import { constants } from 'node:buffer'
import * as fs from 'node:fs'
import { checkInteger, checkType, describe } from '../base/check.ts'
import { EACCES, ENODEV, EPERM } from '../base/errno.ts'
import { checked, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { assertOpen, Descriptor, moveOut, own } from '../descriptor/descriptor.ts'
import { createMemory } from '../os/memfd.ts'
import { native } from '../os/native.ts'
import { procPath } from '../os/proc.ts'

export interface CreateMemoryOptions {
  /** Names the memory in /proc/PID/maps, in at most 249 bytes. Default 'passfd'. */
  name?: string
  /**
   * False: only this object can write. The kernel forbids every other process to map the memory writable or to write to it
   * (`F_SEAL_FUTURE_WRITE`, fcntl(2), Linux 5.1). Default true.
   */
  peersWrite?: boolean
}

export interface MapMemoryOptions {
  /**
   * True: each side sees the other side's writes. False: this side's writes stay private, and hide from then on the writes of others in the same
   * page (`MAP_PRIVATE`, mmap(2)). Default false.
   */
  writable?: boolean
  /** How many bytes to map, from the beginning. Default: all of it. For more than 1 GiB it must be set. */
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
/** The most bytes that are mapped if only the peer has named the size. */
const MAX_UNASKED = 2 ** 30

/** Closes a number that no call can send any more. The map itself lives as long as its ArrayBuffer. */
const registry = new FinalizationRegistry<number>(fd => {
  native.close(fd)
})

/**
 * Maps memory that several processes share: one writes, and the others read the same bytes without a copy.
 *
 * It is sealed against shrinking, so no peer can make a read fatal (`SIGBUS`) by truncating it. `close()` unmaps it. The garbage collector
 * unmaps it when neither this object nor a view of its `buffer` is in use.
 */
export class SharedMemory implements Disposable {
  /** The number of mapped bytes. */
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
   * Creates memory of `size` bytes (1 to 4 GiB), all zero, and maps it writable here. The system allocates each page at its first use. The
   * memory is sealed against shrinking, growing and further seals (memfd_create(2)). No other user may open it (mode 0600).
   * @throws `ENOMEM`, `EMFILE`, … as system errors.
   */
  static create(size: number, options: CreateMemoryOptions = {}): SharedMemory {
    const { name = 'passfd', peersWrite = true } = readOptions(options, CREATE_OPTIONS)
    checkInteger(size, 'size', 1, MAX_SIZE)
    checkType(peersWrite, 'peersWrite', 'true or false', value => typeof value === 'boolean')
    const fd = createMemory(name, { size, seals: ['shrink', 'grow'] })
    try {
      checked(native.setMode(fd, 0o600), 'fchmod')
      const buffer = mapped(fd, size, true)
      checked(native.seal(fd, peersWrite ? F_SEAL_SEAL : F_SEAL_SEAL | F_SEAL_FUTURE_WRITE), 'fcntl') // the existing map stays writable
      return new SharedMemory(fd, buffer)
    } catch (error) {
      native.close(fd)
      throw error
    }
  }

  /**
   * Maps the memory of a descriptor, usually a received one, and takes the descriptor over. If this throws, the caller still owns the
   * descriptor.
   * @throws `ERR_PASSFD_MEMORY_KIND` if it is not plain memory, `_MEMORY_SEALS` if it is not sealed against shrinking, `_MEMORY_SIZE` if it is
   * smaller than `size`, `_MEMORY_READ_ONLY` if `writable` is true and the owner forbids it.
   */
  static map(descriptor: Descriptor, options: MapMemoryOptions = {}): SharedMemory {
    const { writable = false, size } = readOptions(options, MAP_OPTIONS)
    const buffer = mapReceived(descriptor, writable, size, MAX_UNASKED)
    return new SharedMemory(moveOut(descriptor, 'SharedMemory.map()'), buffer)
  }

  /** Gives the mapped memory. */
  get buffer(): ArrayBuffer {
    this.#open()
    return this.#buffer
  }

  /** Gives all of the memory as bytes: always the same view. */
  get bytes(): Buffer {
    this.#open()
    this.#bytes ??= Buffer.from(this.#buffer)
    return this.#bytes
  }

  /** Reports whether it was closed. */
  get closed(): boolean {
    return this.#fd < 0
  }

  /**
   * Makes a new descriptor of the memory, which the caller owns, to send it.
   *
   * With `writable: false` the receiver can't map it writable. But a process of the same user can open it again for writing (proc_pid_fd(5)),
   * unless the memory was created with `peersWrite: false`. Default: like the descriptor that was mapped.
   */
  descriptor(options: { writable?: boolean } = {}): Descriptor {
    const { writable = true } = readOptions(options, DESCRIPTOR_OPTIONS)
    const fd = this.#open()
    checkType(writable, 'writable', 'true or false', value => typeof value === 'boolean')
    return writable
      ? own(checked(native.dup(fd), 'dup'))
      : Descriptor.openSync(procPath(fd, 'A read-only descriptor of memory'), 'r')
  }

  /**
   * Unmaps the memory here: `buffer` and all its views have length 0 afterwards. Other processes keep their mapping. No asynchronous call
   * (`fs.write`, `zlib`, a `send` that has not been sent) may still use the memory.
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

  /** Throws: a message can't carry it. Send its `descriptor()`. */
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
 * @internal Maps memory of a peer, if no later action of the peer can make access fatal. The caller still owns the descriptor.
 * Without `size` it maps all of it, up to `most` bytes.
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
  const actual = fs.fstatSync(fd).size // fstat(2) of memory never blocks, and sealed memory can't shrink
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
