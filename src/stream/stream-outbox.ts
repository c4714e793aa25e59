/** The sending half of a raw stream: each group of descriptors leaves with the first byte of the bytes it was written with. */

import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import type { Cargo } from '../descriptor/outgoing.ts'
import { discard } from '../os/loop.ts'
import { native } from '../os/native.ts'
import { isRefusal } from '../os/raw-socket.ts'

/** As many as the shim gathers into one write. */
const MAX_CHUNKS = 64

/**
 * The send buffer after a write of LARGE or more, in bytes: then neither end waits for the other to wake up. Linux doubles it. Other streams keep
 * theirs, because a peer that never reads binds that memory.
 */
const LARGE_SEND_BUFFER = 212_992
/** In bytes. */
const LARGE = 65_536

const attached = new Int32Array(MAX_RIGHTS)

export class StreamOutbox {
  /** Descriptors that have not left. */
  waiting = 0
  /** Bytes that have. */
  sent = 0
  readonly #fd: number
  /** By the very buffer whose first byte they leave with. */
  readonly #cargos = new Map<Uint8Array, Cargo>()
  #sendsLarge = false
  #chunks: Uint8Array[] = []
  #at = 0
  #skip = 0

  constructor(fd: number) {
    this.#fd = fd
  }

  /** `cargo` is the outbox's from now on, and leaves with `bytes`, which must be put later and nowhere else. */
  attach(bytes: Uint8Array, cargo: Cargo): void {
    this.#cargos.set(bytes, cargo)
    this.waiting += cargo.fds.length
  }

  put(chunks: readonly Uint8Array[]): void {
    for (const chunk of chunks) {
      if (chunk.length > 0) this.#chunks.push(chunk)
      if (chunk.length >= LARGE && !this.#sendsLarge) this.#makeRoom()
    }
  }

  /** Writes until nothing is left (0) or a write fails (-errno). */
  flush(): number {
    while (this.#at < this.#chunks.length) {
      const first = this.#chunks[this.#at]!
      const cargo = this.#cargos.get(first)
      cargo?.fds.forEach((fd, index) => {
        attached[index] = fd
      })
      const result = native.sendVector(this.#fd, this.#gather(), this.#skip, attached, 0, cargo?.fds.length ?? 0)
      if (result < 0) {
        if (cargo?.onRefused === undefined || !isRefusal(result)) return result
        this.#remove(first, cargo)
        this.#at++
        cargo.onRefused(result)
        continue
      }
      if (cargo !== undefined) this.#gone(first, cargo) // with its first byte, however few have left
      this.#advance(result)
    }
    this.#chunks = []
    this.#at = 0
    return 0
  }

  /** Closes what has not left. */
  end(): void {
    for (const [bytes, cargo] of this.#cargos) this.#gone(bytes, cargo)
    this.#chunks = []
    this.#at = this.#skip = 0
  }

  #makeRoom(): void {
    this.#sendsLarge = true
    native.sendBuffer(this.#fd, LARGE_SEND_BUFFER)
  }

  /** What one write may take: descriptors belong to its first byte, so the next ones begin a new write. */
  #gather(): Uint8Array[] {
    let end = this.#at + 1
    while (end < this.#chunks.length && end - this.#at < MAX_CHUNKS && !this.#cargos.has(this.#chunks[end]!)) end++
    return this.#chunks.slice(this.#at, end)
  }

  #gone(bytes: Uint8Array, cargo: Cargo): void {
    this.#remove(bytes, cargo)
    closeCopies(cargo.fds, cargo.foreign)
  }

  #remove(bytes: Uint8Array, { fds }: Cargo): void {
    this.#cargos.delete(bytes)
    this.waiting -= fds.length
  }

  #advance(written: number): void {
    this.sent += written
    let left = written + this.#skip
    while (this.#at < this.#chunks.length && left >= this.#chunks[this.#at]!.length)
      left -= this.#chunks[this.#at++]!.length
    this.#skip = left
  }
}

/** Closes our copies of descriptors that have left, or never will. */
export function closeCopies(fds: readonly number[], foreign: boolean): void {
  if (foreign) discard(fds)
  else native.closeMany(Int32Array.from(fds), 0, fds.length)
}
