/** passfd/memory: memory that both sides map once and use for many messages. */

export { MemoryPool, type MemoryPoolOptions, type Slot } from './pool.ts'
export { type LentMemory, PoolReader, type PoolReaderOptions } from './pool-reader.ts'
export { type CreateMemoryOptions, type MapMemoryOptions, SharedMemory } from './shared-memory.ts'
export type { Loan } from './slot-loan.ts'
