/** passfd/systemd: a service's side of systemd's protocols: socket activation, notifications, the watchdog, the store of descriptors. */
export { type ActivatedDescriptor, type ActivationOptions, activatedSockets } from '../descriptor/activated.ts'
export type { Notification } from './notification.ts'
export { type BarrierOptions, barrier, notify, removeStored, type StoreOptions, storeDescriptor } from './notify.ts'
export { type Watchdog, watchdog } from './watchdog.ts'
