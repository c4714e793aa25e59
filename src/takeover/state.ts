/** The state that a predecessor gives to its successor: any value, with any number of Descriptors and Connections in it. */
import { decodeWide, encodeWide } from '../codec/wide.ts'
import { isInside } from '../connection/connection.ts'
import { type Descriptor, lock, unlock } from '../descriptor/descriptor.ts'
import { native } from '../os/native.ts'
import { copying } from './copies.ts'
import type { StatePart } from './messages.ts'

/** The most bytes and descriptors (SCM_MAX_FD) of one message of the state. */
const PART_BYTES = 1_048_576
const PART_DESCRIPTORS = 253

/** A given state that may come back: the program's originals, and copies of them for the successor. */
export class GivenState {
  readonly value: unknown
  readonly parts: readonly StatePart[]
  readonly #originals: readonly Descriptor[]

  /** Throws ERR_PASSFD_ENCODE, or the error of an unusable descriptor, and changes nothing then. */
  constructor(value: unknown) {
    const { bytes, descriptors } = encodeWide(value)
    this.value = value
    this.#originals = descriptors
    this.parts = inParts(
      bytes,
      copying(copy => descriptors.map(copy))
    )
  }

  /** Closes the originals, because the successor has the state. */
  close(): void {
    for (const original of this.#originals) original[Symbol.dispose]()
  }
}

/** Closes what a message with this value would move. A value that can't be encoded is left to the garbage collector. */
export function closeState(value: unknown): void {
  let descriptors: readonly Descriptor[] = []
  try {
    descriptors = encodeWide(value).descriptors
  } catch {
    return
  }
  for (const descriptor of descriptors) descriptor[Symbol.dispose]()
}

function inParts(bytes: Buffer, descriptors: readonly Descriptor[]): StatePart[] {
  const count = Math.max(1, Math.ceil(bytes.length / PART_BYTES), Math.ceil(descriptors.length / PART_DESCRIPTORS))
  return Array.from({ length: count }, (_, part) => ({
    bytes: bytes.subarray(part * PART_BYTES, (part + 1) * PART_BYTES),
    descriptors: descriptors.slice(part * PART_DESCRIPTORS, (part + 1) * PART_DESCRIPTORS)
  }))
}

/** A received state. The predecessor owns it until the mark, so its Descriptors and Connections are locked. */
export class LockedState {
  readonly value: unknown
  readonly #locked: readonly { readonly descriptor: Descriptor; readonly fd: number }[]

  /** Moves the descriptors of `parts` in. Throws ERR_PASSFD_UNDECODABLE or ERR_PASSFD_DESCRIPTOR_COUNT, and closes them then. */
  constructor(parts: readonly StatePart[]) {
    const descriptors = parts.flatMap(part => part.descriptors)
    try {
      this.value = decodeWide(Buffer.concat(parts.map(({ bytes }) => bytes)), descriptors)
    } catch (error) {
      for (const descriptor of descriptors) descriptor.close()
      throw error
    }
    this.#locked = descriptors.map(descriptor => ({ descriptor, fd: lock(descriptor) }))
  }

  /** How many Connections there are in it. */
  get connections(): number {
    return this.#locked.filter(({ descriptor }) => isInside(descriptor)).length
  }

  /** Unlocks the state: the program owns it. */
  unlock(): void {
    for (const { descriptor, fd } of this.#locked) unlock(descriptor, fd)
  }

  /** Closes it here, because the predecessor keeps it. */
  close(): void {
    for (const { descriptor, fd } of this.#locked) {
      unlock(descriptor, -1)
      native.close(fd)
    }
  }
}
