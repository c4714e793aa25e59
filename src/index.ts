/** passfd: open files and sockets, with a message, between processes that did not fork each other. */
export {
  Channel,
  type ChannelEvents,
  type Handler,
  type RequestOptions,
  type Returned,
  type ServeOptions
} from './channel.ts'
export { type Address, connect, pair } from './connect.ts'
export { Connection, type StreamOptions, type TakeOptions } from './connection.ts'
export {
  type BindSpec,
  Descriptor,
  type DescriptorSource,
  type Kind,
  type ListenHandle
} from './descriptor.ts'
export { type ErrorCode, type Failure, PassfdError, type RemoteError } from './errors.ts'
export type { MemfdOptions, Seal } from './memfd.ts'
export type { Message } from './message.ts'
export type { FileWriteOptions, OpenFile } from './open-file.ts'
export type { ChannelOptions, ListenOptions, Schema } from './options.ts'
export type { Peer } from './peer.ts'
export { ChannelServer, listen, type ServerEvents } from './server.ts'
export { version } from './version.ts'
