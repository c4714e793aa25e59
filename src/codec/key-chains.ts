/**
 * Limits the time that a peer can cost this process by keys of a Map or items of a Set. V8 hashes strings with a random seed, but numbers and
 * bigints without one. So a peer can choose keys that all fall into one chain of the hash table, and each insertion walks it: 16,000 bigints
 * took 1.5 s. passfd estimates these steps, by the hash function of V8, before it inserts the keys.
 */
import { PassfdError } from '../base/errors.ts'

/** So few keys can't cost much: they are not looked at. */
const FEW_KEYS = 128
/** What a body may cost, in steps of a chain (up to 11 ns each), and what each byte of it adds. */
const STEPS = 1 << 20
const STEPS_A_BYTE = 16
const CHAINS = 4096

let steps = 0
let limit = 0
const double = new Float64Array(1)
const words = new Uint32Array(double.buffer)
const long = new BigUint64Array(double.buffer)

/** Before a body of so many bytes is decoded. */
export function allowSteps(bytes: number): void {
  steps = 0
  limit = STEPS + bytes * STEPS_A_BYTE
}

/** Before a value is encoded: nothing is refused until its length is known. */
export function countSteps(): void {
  steps = 0
  limit = Number.POSITIVE_INFINITY
}

/** Whether the peer would refuse the body of so many bytes that was just encoded. */
export function tooManySteps(bytes: number): boolean {
  return steps > STEPS + bytes * STEPS_A_BYTE
}

export const KEYS_COLLIDE =
  'holds Maps or Sets with too many numbers or bigints that have the same hash; send an array of them'

/** Makes the chains for a Map or Set of `size`; undefined if it is too small to matter. */
export function chainsOf(size: number): KeyChains | undefined {
  return size > FEW_KEYS ? new KeyChains() : undefined
}

/** How many keys there are of each hash. */
class KeyChains {
  #lengths: Uint32Array | undefined

  /** Throws ERR_PASSFD_UNDECODABLE if this key is one too many of the same hash in a body. */
  add(key: unknown): void {
    if (typeof key !== 'number' && typeof key !== 'bigint') return
    this.#lengths ??= new Uint32Array(CHAINS)
    steps += this.#lengths[hashOf(key) % CHAINS]!++
    if (steps > limit) throw new PassfdError('UNDECODABLE', { detail: `it ${KEYS_COLLIDE}` })
  }
}

/** The hash of V8 (ComputeUnseededHash, ComputeLongHash) for a key of a Map; bigints count by their lowest 64 bits. */
export function hashOf(key: number | bigint): number {
  if (typeof key === 'number') {
    if ((key | 0) === key) return hashOfInteger(key)
    double[0] = key
  } else long[0] = key < 0n ? -key : key
  return hashOfWords(words[1]!, words[0]!)
}

function hashOfInteger(key: number): number {
  let hash = (~key + (key << 15)) | 0
  hash ^= hash >>> 12
  hash = (hash + (hash << 2)) | 0
  hash ^= hash >>> 4
  hash = Math.imul(hash, 2057)
  hash ^= hash >>> 16
  return hash & 0x3fffffff
}

function hashOfWords(high: number, low: number): number {
  // hash = ~hash + (hash << 18)
  let sum = (~low >>> 0) + ((low << 18) >>> 0)
  let h = (~high + ((high << 18) | (low >>> 14)) + (sum > 0xffffffff ? 1 : 0)) | 0
  let l = sum | 0
  // hash ^= hash >>> 31
  l ^= (h << 1) | (l >>> 31)
  h ^= h >>> 31
  // hash *= 21
  const product = (l >>> 0) * 21
  h = (Math.imul(h, 21) + Math.floor(product / 0x100000000)) | 0
  l = product | 0
  // hash ^= hash >>> 11
  l ^= (h << 21) | (l >>> 11)
  h ^= h >>> 11
  // hash += hash << 6
  sum = (l >>> 0) + ((l << 6) >>> 0)
  h = (h + ((h << 6) | (l >>> 26)) + (sum > 0xffffffff ? 1 : 0)) | 0
  l = sum | 0
  // hash ^= hash >>> 22
  l ^= (h << 10) | (l >>> 22)
  return l & 0x3fffffff
}

/** What a Map or Set with these keys costs the one that decodes it. */
export function addToChains(keys: readonly unknown[]): void {
  const chains = chainsOf(keys.length)
  if (chains !== undefined) for (const key of keys) chains.add(key)
}
