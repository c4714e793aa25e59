/** `MemoryPool`: slots of shared memory that are lent with a message, and come back when no process holds them any more. */

import { randomBytes } from 'node:crypto'
import { whenAborted } from '../base/abort-signals.ts'
import { isAbortSignal } from '../base/brand.ts'
import { checkInteger, checkType, describe } from '../base/check.ts'
import { abortError, checked, PassfdError } from '../base/errors.ts'
import { checkOptions, type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { own } from '../descriptor/descriptor.ts'
import { native } from '../os/native.ts'
import { LoanEnds } from './loan-ends.ts'
import { SharedMemory } from './shared-memory.ts'
import { type Loan, MAPPED } from './slot-loan.ts'

export interface MemoryPoolOptions {
  /** The number of slots, and so of slots that can be in use at the same time. Default 8. */
  slots?: number
  /** In bytes. Default 1 MiB. */
  slotSize?: number
  /** Names the memory in /proc/PID/maps, in at most 249 bytes. Default 'passfd-pool'. */
  name?: string
}

const POOL_OPTIONS = { slots: true, slotSize: true, name: true } as const satisfies KnownOptions<MemoryPoolOptions>
const ACQUIRE_OPTIONS = { signal: true } as const satisfies KnownOptions<{ signal?: AbortSignal }>

/** A lent slot. */
interface Out {
  readonly index: number
  /** The channel whose peer reads it. */
  readonly to: object
}

interface Waiter {
  resolve(slot: Slot): void
  reject(error: Error): void
}

const PAGE = 4096

const ends = new Int32Array(2)

/** Closes the read ends of a pool that is collected while slots are lent. The collector unmaps the memory. */
const pools = new FinalizationRegistry<LoanEnds>(ends => ends.close())

/** Pools that the collector must leave alone, because the event loop holds them weakly. */
const awaited = new Set<MemoryPool>()

let warned = false
const lost = new FinalizationRegistry<{ pool: WeakRef<MemoryPool>; index: number }>(({ pool, index }) => {
  const owner = pool.deref()
  if (owner === undefined || owner.closed) return
  bringBack(owner, index)
  if (warned) return
  warned = true
  process.emitWarning(
    'A slot of a MemoryPool was collected before it was lent; it is free again. Lend it, or call release() on it.',
    { type: 'PassfdWarning', code: 'PASSFD_LEAK' }
  )
})

let bringBack: (pool: MemoryPool, index: number) => void
let lendOut: (pool: MemoryPool, slot: Slot, index: number, to: object, length: number) => Loan

/** Keeps a view's owner alive as long as the view. */
const OWNER = Symbol('owner')

/**
 * Shares memory in slots of one size.
 *
 * `acquire` a slot, fill its `bytes`, and send the result of `lend`. The receiver reads the same memory, by a `PoolReader`. The slot is free
 * again when the receiver releases it, when the message's scope ends, when the message was not read, or when the receiver's process or channel
 * has ended.
 *
 * Only this object can write into the memory. But every reader can read all of it at any time: use one pool for each group of peers that may
 * read the same data.
 */
export class MemoryPool implements Disposable {
  readonly slots: number
  /** In bytes. */
  readonly slotSize: number
  readonly #id = randomBytes(16).toString('base64url')
  readonly #memory: SharedMemory
  /** The distance between the beginnings of two slots, in bytes. */
  readonly #stride: number
  readonly #free: number[]
  /** Lent slots, by the read ends of their pipes. */
  readonly #out = new Map<number, Out>()
  readonly #ends: LoanEnds
  readonly #waiting = new Set<Waiter>()
  /** The channels whose readers have confirmed that they have mapped the memory. */
  readonly #mapped = new WeakSet<object>()

  /** Maps `slots` × `slotSize` bytes, at most 4 GiB. @throws system errors: `ENOMEM`, `EMFILE`, … */
  constructor(options: MemoryPoolOptions = {}) {
    markUncloneable(this)
    const { slots = 8, slotSize = 1048576, name = 'passfd-pool' } = readOptions(options, POOL_OPTIONS)
    checkInteger(slots, 'options.slots', 1, 65536)
    checkInteger(slotSize, 'options.slotSize', 1, 2 ** 32)
    this.slots = slots
    this.slotSize = slotSize
    this.#stride = Math.ceil(slotSize / PAGE) * PAGE
    checkInteger(slots * this.#stride, 'options.slots × options.slotSize', 1, 2 ** 32)
    this.#memory = SharedMemory.create(slots * this.#stride, { name, peersWrite: false })
    this.#free = Array.from({ length: slots }, (_, index) => slots - 1 - index)
    const pool = new WeakRef(this) // the event loop holds the ends
    try {
      this.#ends = new LoanEnds((fd, word) => {
        const owner = pool.deref()
        if (owner !== undefined) owner.#loanEnded(fd, word)
      })
    } catch (error) {
      this.#memory.close()
      throw error
    }
    pools.register(this, this.#ends, this)
  }

  /** Reports the number of free slots. */
  get free(): number {
    this.#ends.collect()
    return this.#free.length
  }

  /** Reports whether the pool was closed. */
  get closed(): boolean {
    return this.#memory.closed
  }

  /**
   * Resolves to a free slot, which the caller then owns: at once, or when a slot comes back, in the order of the calls. Rejects with
   * ERR_PASSFD_POOL_CLOSED, also if `close()` is called meanwhile, or with Node's AbortError by `signal`.
   */
  acquire(options: { signal?: AbortSignal } = {}): Promise<Slot> {
    checkOptions(options, ACQUIRE_OPTIONS)
    const { signal } = options
    checkType(signal, 'signal', 'an AbortSignal', isAbortSignal)
    if (signal?.aborted) return Promise.reject(abortError(signal))
    if (this.closed) return Promise.reject(new PassfdError('POOL_CLOSED'))
    const slot = this.#take()
    if (slot === undefined) return this.#wait(signal)
    // Earlier messages leave at nextTick. Resolving after that lets the peer read one slot while the program fills the next
    return new Promise(resolve => process.nextTick(resolve, slot))
  }

  /** Returns a slot if one is free and no `acquire()` waits, otherwise undefined. @throws ERR_PASSFD_POOL_CLOSED */
  tryAcquire(): Slot | undefined {
    if (this.closed) throw new PassfdError('POOL_CLOSED')
    return this.#take()
  }

  /**
   * Unmaps the memory here. Slots that were not lent have length 0 afterwards, and pending `acquire` calls reject. Readers keep the slots that
   * were lent to them, unchanged, for any time. @throws ERR_PASSFD_POOL_CLOSED if it was closed before.
   */
  close(): void {
    if (this.closed) throw new PassfdError('POOL_CLOSED')
    this.#memory.close()
    pools.unregister(this)
    this.#ends.close()
    this.#out.clear()
    this.#free.length = 0
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const { reject } of waiting) reject(new PassfdError('POOL_CLOSED'))
  }

  /** Closes it if it is still open. */
  [Symbol.dispose](): void {
    if (!this.closed) this.close()
  }

  /** Returns none while an `acquire()` waits, because the next free slot belongs to that call. */
  #take(): Slot | undefined {
    if (this.#free.length === 0) this.#ends.collect()
    const index = this.#free.pop()
    return index === undefined ? undefined : this.#slot(index)
  }

  #slot(index: number): Slot {
    const start = index * this.#stride
    return new Slot(this, index, this.#memory.bytes.subarray(start, start + this.slotSize))
  }

  #wait(signal: AbortSignal | undefined): Promise<Slot> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(waiter)
        forget()
        if (this.#waiting.size === 0) this.#await(false)
      }
      const waiter: Waiter = {
        resolve: slot => {
          leave()
          resolve(slot)
        },
        reject: error => {
          leave()
          reject(error)
        }
      }
      const forget = whenAborted(signal, () => waiter.reject(abortError(signal!)))
      this.#waiting.add(waiter)
      if (this.#out.size > 0) this.#await(true)
    })
  }

  /** Whether a lent slot is waited for: then the process goes on, and the pool lives, though only the waiting calls may know it. */
  #await(on: boolean): void {
    if (on) awaited.add(this)
    else awaited.delete(this)
    this.#ends.keepRunning(on)
  }

  #lend(slot: Slot, index: number, to: object, length: number): Loan {
    if (this.closed) throw new PassfdError('POOL_CLOSED')
    if ((typeof to !== 'object' && typeof to !== 'function') || to === null)
      throw new PassfdError('INVALID_ARGUMENT', {
        what: 'to',
        expected: 'the channel that it is sent to',
        actual: describe(to)
      })
    checkInteger(length, 'length', 0, this.slotSize)
    const memory = this.#mapped.has(to) ? undefined : this.#memory.descriptor({ writable: false })
    const result = native.pipe(ends)
    if (result < 0) memory?.close()
    checked(result, 'pipe')
    const [fd, token] = ends as unknown as [number, number]
    try {
      this.#ends.add(fd)
    } catch (error) {
      for (const end of [fd, token]) native.close(end)
      memory?.close()
      throw error
    }
    lost.unregister(slot)
    this.#out.set(fd, { index, to })
    if (this.#waiting.size > 0) this.#await(true)
    const loan = { pool: this.#id, offset: index * this.#stride, length, token: own(token) }
    return memory === undefined ? loan : { ...loan, memory }
  }

  /** No process holds the token any more. `word`: what the reader has written to it. */
  #loanEnded(fd: number, word: number): void {
    const { index, to } = this.#out.get(fd)!
    this.#out.delete(fd)
    if (word === MAPPED) this.#mapped.add(to)
    else if (word !== 0) this.#mapped.delete(to)
    this.#bringBack(index)
    if (this.#out.size === 0) this.#await(false)
  }

  #bringBack(index: number): void {
    const [waiter] = this.#waiting
    if (waiter === undefined) this.#free.push(index)
    else waiter.resolve(this.#slot(index))
  }

  static {
    bringBack = (pool, index) => pool.#bringBack(index)
    lendOut = (pool, slot, index, to, length) => pool.#lend(slot, index, to, length)
  }
}
mark(MemoryPool, 'MemoryPool')

/** A slot that the caller owns. The caller fills it, and lends it or releases it. */
export class Slot implements Disposable {
  readonly #pool: MemoryPool
  readonly #index: number
  #bytes: Buffer | undefined
  #loan: Loan | undefined

  /** @internal Made by `acquire`. */
  constructor(pool: MemoryPool, index: number, bytes: Buffer) {
    markUncloneable(this)
    this.#pool = pool
    this.#index = index
    this.#bytes = Object.defineProperty(bytes, OWNER, { value: this })
    lost.register(this, { pool: new WeakRef(pool), index }, this)
  }

  /** Gives the slot's bytes, to be filled. They still hold the previous contents. @throws ERR_PASSFD_SLOT_GONE after `lend` and `release`. */
  get bytes(): Buffer {
    return this.#open()
  }

  /**
   * Lends the first `length` bytes (default: all) to the reader at the other end of `to`, the channel. Returns a value for one place in one
   * message. Don't use `bytes` afterwards. If you don't send the value, call `release()`.
   * @throws ERR_PASSFD_SLOT_GONE if it was lent or released before, ERR_PASSFD_POOL_CLOSED, `EMFILE` as a system error.
   */
  lend(to: object, length: number = this.#pool.slotSize): Loan {
    this.#open()
    const loan = lendOut(this.#pool, this, this.#index, to, length)
    this.#loan = loan
    this.#bytes = undefined
    return loan
  }

  /** Gives the slot back, also if it was lent and not sent yet, or returned. Does nothing if a reader has it, or if it was released before. */
  release(): void {
    this[Symbol.dispose]()
    this.#loan?.token[Symbol.dispose]()
    this.#loan?.memory?.[Symbol.dispose]()
  }

  /** Gives the slot back unless it is lent. */
  [Symbol.dispose](): void {
    if (this.#bytes === undefined) return
    this.#bytes = undefined
    lost.unregister(this)
    if (!this.#pool.closed) bringBack(this.#pool, this.#index)
  }

  /** Throws: a message can't carry a slot. Send the result of `lend`. */
  toJSON(): never {
    throw new PassfdError('ENCODE', { detail: "a Slot can't be sent itself: send what its lend() gives" })
  }

  #open(): Buffer {
    if (this.#bytes === undefined) throw new PassfdError('SLOT_GONE')
    return this.#bytes
  }
}
mark(Slot, 'Slot')
