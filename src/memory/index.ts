/** passfd/memory: memory that is mapped once on both sides and used again for many messages. */

export { MemoryPool, type MemoryPoolOptions, type Slot } from './pool.ts'
export { type LentMemory, PoolReader, type PoolReaderOptions } from './pool-reader.ts'
export { type CreateMemoryOptions, type MapMemoryOptions, SharedMemory } from './shared-memory.ts'
export type { Loan } from './slot-loan.ts'
