/** passfd/store: holds descriptors by name, for programs that crash, restart or come later. */
export type { StoreChange } from './changes.ts'
export {
  connectStore,
  type NamedOptions,
  type PutOptions,
  type SelectOptions,
  type StoreClient,
  type StoreClientEvents,
  type StoreClientOptions,
  type StoredCopy,
  type WatchOptions
} from './client.ts'
export type { StoreLease } from './lease.ts'
export type { LinkAddress as StoreClientAddress } from './link.ts'
export type { EntryEvent, StoredEntry } from './messages.ts'
export type { OpenStoreOptions, StoreAddress } from './options.ts'
export type { StoreQuota } from './quota.ts'
export { defaultRules, type StoreRule } from './rules.ts'
export { openStore, type Store, type StoreEvents, type StoreStatus } from './store.ts'
