/** The file through which faults.c gets its orders: `struct orders` there. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { NAMES } from './functions.ts'

/** In place of an errno: the process is killed before the call is made. */
export const KILL = -1

export interface Order {
  /** A function of functions.ts. */
  readonly name: string
  /** The call that fails first, from 1 on, and how many fail. */
  readonly first: number
  readonly times: number
  /** An errno; KILL; or undefined: the calls read or write `limit` bytes at most. */
  readonly error: number | undefined
  readonly limit: number
}

const NONE = -1
const HEAD = 24
const MOST = 64
const SITES = 256
const CALLS_AT = HEAD
const SITES_AT = CALLS_AT + 4 * MOST
const SIZE = SITES_AT + 8 * SITES

export class Orders {
  readonly path: string
  readonly #fd: number

  constructor(path: string) {
    this.path = path
    this.#fd = openSync(path, 'w+')
    const empty = Buffer.alloc(SIZE)
    empty.writeInt32LE(NONE)
    writeSync(this.#fd, empty, 0, SIZE, 0)
  }

  /** Counts calls from now on, and lets the ordered ones fail. */
  give(order: Order | undefined): void {
    writeSync(this.#fd, Buffer.alloc(4 * MOST), 0, 4 * MOST, CALLS_AT)
    const head = Buffer.alloc(HEAD)
    head.writeInt32LE(order === undefined ? NONE : NAMES.indexOf(order.name))
    head.writeInt32LE(order?.first ?? 0, 4)
    head.writeInt32LE(order?.times ?? 0, 8)
    head.writeInt32LE(order?.error ?? 0, 12)
    head.writeInt32LE(order?.limit ?? 0, 16)
    writeSync(this.#fd, head, 0, HEAD, 0)
  }

  /** How many calls have failed by the order. */
  get hits(): number {
    return this.#read(20, 1)[0]!
  }

  /** Of each function, how often it was called since the order was given. */
  get calls(): Map<string, number> {
    const counts = this.#read(CALLS_AT, NAMES.length)
    return new Map(NAMES.map((name, at) => [name, counts[at]!]))
  }

  /** Places in the shim that have called one of the functions, from the beginning on; with each, how many of its calls have failed. */
  get sites(): Map<number, number> {
    const table = this.#read(SITES_AT, 2 * SITES)
    const sites = new Map<number, number>()
    for (let at = 0; at < table.length; at += 2) if (table[at] !== 0) sites.set(table[at]!, table[at + 1]!)
    return sites
  }

  close(): void {
    closeSync(this.#fd)
  }

  #read(at: number, count: number): number[] {
    const bytes = Buffer.alloc(4 * count)
    readSync(this.#fd, bytes, 0, bytes.length, at)
    return Array.from({ length: count }, (_, index) => bytes.readInt32LE(4 * index))
  }
}
