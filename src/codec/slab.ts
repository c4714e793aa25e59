/** The buffers that outgoing frames are encoded into, one behind the other. */

export const SLAB = 65536
/** A frame is begun in a slab only if at least this much is free: msgpackr wants 2 KiB and takes another buffer otherwise. */
export const ROOM = 4096
const POOLED = 64

const pool: Buffer[] = []

export function takeSlab(): Buffer {
  return pool.pop() ?? Buffer.allocUnsafeSlow(SLAB)
}

/** Nothing of it is going to be read any more. */
export function giveSlab(slab: Buffer): void {
  if (pool.length < POOLED) pool.push(slab)
}
