/** `PoolReader`: the receiving side of a MemoryPool. */

import { checkInteger, checkOwnCopy, describe } from '../base/check.ts'
import { EINVAL } from '../base/errno.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { native } from '../os/native.ts'
import { mapReceived } from './shared-memory.ts'
import { type Loan, MAPPED, UNKNOWN } from './slot-loan.ts'

export interface PoolReaderOptions {
  /** Limits the pools whose memory stays mapped. Beyond the limit the reader unmaps the least recently used pool. Default 16. */
  maxPools?: number
  /** Limits the sizes of these pools together, in bytes. Default 1 GiB. */
  maxSize?: number
}

const READER_OPTIONS = { maxPools: true, maxSize: true } as const satisfies KnownOptions<PoolReaderOptions>

interface Mapped {
  readonly buffer: ArrayBuffer
  /** The tokens of loans that may be open. Weak, so that the collector finds a forgotten loan and returns its slot. */
  tokens: WeakRef<Descriptor>[]
}

/** The list of tokens is cleaned when it has so many. */
const MANY = 64
const word = new Uint8Array(1)

/** Keeps a view's owner alive as long as the view, because the slot returns when the owner is collected. */
const OWNER = Symbol('owner')

/** Opens the loans that one peer sends. It maps each pool once; use one reader for each channel. */
export class PoolReader implements Disposable {
  readonly #maxPools: number
  readonly #maxSize: number
  /** The least recently used first. */
  readonly #pools = new Map<string, Mapped>()
  #size = 0
  #closed = false

  constructor(options: PoolReaderOptions = {}) {
    markUncloneable(this)
    const { maxPools = 16, maxSize = 2 ** 30 } = readOptions(options, READER_OPTIONS)
    checkInteger(maxPools, 'options.maxPools', 1, 65536)
    checkInteger(maxSize, 'options.maxSize', 1, Number.MAX_SAFE_INTEGER)
    this.#maxPools = maxPools
    this.#maxSize = maxSize
  }

  /**
   * Gives the memory of a loan in a message. It is lent as long as the message's descriptors are: until the message's scope ends, unless it is
   * claimed. If this throws, the loan is unchanged.
   * @throws ERR_PASSFD_LOAN_INVALID if the value is not a loan, or not one of this memory, ERR_PASSFD_POOL_UNKNOWN if the memory did not come
   * with it, ERR_PASSFD_POOL_READER_CLOSED, and the errors of `SharedMemory.map`.
   */
  open(loan: Loan): LentMemory {
    if (this.#closed) throw new PassfdError('POOL_READER_CLOSED')
    const { pool, offset, length, token, memory } = checkLoan(loan)
    const mapped = this.#pools.get(pool) ?? this.#map(pool, token, memory)
    // Checked before it is closed here, because closing anything but memory could block
    if (memory !== undefined) checkSealable(memory)
    const { buffer } = mapped
    if (offset + length > buffer.byteLength)
      throw new PassfdError('LOAN_INVALID', {
        detail: `bytes ${offset} to ${offset + length} of ${buffer.byteLength}`
      })
    this.#pools.delete(pool)
    this.#pools.set(pool, mapped)
    if (memory !== undefined) {
      say(token, MAPPED)
      memory.close()
    }
    if (mapped.tokens.length >= MANY) mapped.tokens = mapped.tokens.filter(isOpen)
    mapped.tokens.push(new WeakRef(token))
    return new LentMemory(Buffer.from(buffer, offset, length), token)
  }

  /** Unmaps all pools: memory that was opened has length 0 afterwards. Open loans end as they would without this call. */
  close(): void {
    this.#closed = true
    for (const { buffer } of this.#pools.values()) native.unmap(buffer)
    this.#pools.clear()
    this.#size = 0
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #map(pool: string, token: Descriptor, memory: Descriptor | undefined): Mapped {
    if (memory === undefined) {
      say(token, UNKNOWN)
      throw new PassfdError('POOL_UNKNOWN')
    }
    const buffer = mapReceived(memory, false, undefined, this.#maxSize)
    while (this.#pools.size >= this.#maxPools || this.#size + buffer.byteLength > this.#maxSize) this.#giveUpOne()
    const mapped = { buffer, tokens: [] }
    this.#pools.set(pool, mapped)
    this.#size += buffer.byteLength
    return mapped
  }

  #giveUpOne(): void {
    const [[pool, { buffer, tokens }]] = this.#pools as unknown as [[string, Mapped]]
    this.#pools.delete(pool)
    this.#size -= buffer.byteLength
    // Otherwise a view is in use: the collector unmaps it when the last view is gone
    if (!tokens.some(isOpen)) native.unmap(buffer)
  }
}
mark(PoolReader, 'PoolReader')

/** A part of a peer's memory, lent until it is released or the scope of its message ends. */
export class LentMemory implements Disposable {
  readonly #bytes: Buffer
  readonly #token: Descriptor

  /** @internal Made by `PoolReader.open`. */
  constructor(bytes: Buffer, token: Descriptor) {
    markUncloneable(this)
    this.#bytes = Object.defineProperty(bytes, OWNER, { value: this })
    this.#token = token
  }

  /**
   * Gives the bytes in the peer's memory. Only read them: a write stays private, and hides what the peer writes there for later messages. The
   * peer may change them at any time, so copy bytes before you check them. @throws ERR_PASSFD_LOAN_OVER when they are not lent any more.
   */
  get bytes(): Buffer {
    if (this.#token.closed) throw new PassfdError('LOAN_OVER')
    return this.#bytes
  }

  /** Reports whether it was released, or the scope of its message ended before it was claimed. */
  get released(): boolean {
    return this.#token.closed
  }

  /** Keeps the memory beyond the scope of its message, until `release()`. @throws ERR_PASSFD_LOAN_OVER */
  claim(): this {
    if (this.#token.closed) throw new PassfdError('LOAN_OVER')
    this.#token.claim()
    return this
  }

  /** Gives the memory back to the peer: don't use `bytes` afterwards. Does nothing if it was released before. */
  release(): void {
    // On the loop, unlike other lent descriptors: it is a pipe, whose close doesn't block here
    if (!this.#token.closed) this.#token.claim().close()
  }

  [Symbol.dispose](): void {
    this.release()
  }

  /** Throws: a message can't carry it. Send a copy of its bytes. */
  toJSON(): never {
    throw new PassfdError('ENCODE', { detail: "lent memory can't be sent itself: send its bytes" })
  }
}
mark(LentMemory, 'LentMemory')

function checkLoan(value: unknown): Loan {
  const { pool, offset, length, token, memory } = (
    typeof value === 'object' && value !== null ? value : {}
  ) as Partial<Loan>
  checkOwnCopy(token, 'the token of a loan', 'a Descriptor of this copy of passfd')
  checkOwnCopy(memory, 'the memory of a loan', 'a Descriptor of this copy of passfd')
  const problem =
    typeof pool !== 'string' || pool.length > 64
      ? `its pool is ${describe(pool)}`
      : !isSize(offset) || !isSize(length)
        ? `its place is ${describe(offset)}, ${describe(length)}`
        : !(token instanceof Descriptor) || !(memory === undefined || memory instanceof Descriptor)
          ? 'a descriptor is missing'
          : token.closed || !isPipe(token)
            ? 'its token is no open pipe'
            : undefined
  if (problem !== undefined) throw new PassfdError('LOAN_INVALID', { detail: problem })
  return value as Loan
}

function checkSealable(memory: Descriptor): void {
  const seals = native.seals(memory.borrow())
  if (seals === EINVAL) throw new PassfdError('MEMORY_KIND', { actual: memory.kind })
  checked(seals, 'fcntl')
}

function isOpen(token: WeakRef<Descriptor>): boolean {
  return token.deref()?.closed === false
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

/** Whether it is a pipe(7), not a FIFO on a file system of the peer: closing it and writing to it can't block. */
function isPipe(token: Descriptor): boolean {
  return native.isPipe(token.borrow()) === 1
}

function say(token: Descriptor, what: number): void {
  word[0] = what
  native.writeNow(token.borrow(), word, 0, 1) // if this fails, the pool sends the memory again
}
