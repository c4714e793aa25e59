/** passfd: open files and sockets, with a message, between processes that did not fork each other. */

export { type ErrorCode, type Failure, PassfdError, type RemoteError } from './base/errors.ts'
export { version } from './base/version.ts'
export {
  Channel,
  type ChannelEvents,
  type Handler,
  type RequestOptions,
  type Returned,
  type ServeOptions
} from './channel/channel.ts'
export { type Address, connect, pair } from './channel/connect.ts'
export type { Message } from './channel/message.ts'
export type { ChannelOptions, ListenOptions, Schema } from './channel/options.ts'
export { ChannelServer, listen, type ServerEvents } from './channel/server.ts'
export { Connection, type StreamOptions, type TakeOptions } from './connection/connection.ts'
export type { Access, OpenFlags } from './descriptor/access.ts'
export { type BindSpec, Descriptor } from './descriptor/descriptor.ts'
export type { DescriptorSource } from './descriptor/from-node.ts'
export type { Kind } from './descriptor/kind.ts'
export type { FileWriteOptions, OpenFile } from './descriptor/open-file.ts'
export type { Peer } from './descriptor/peer.ts'
export type { ListenHandle } from './descriptor/to-node.ts'
export type { MemfdOptions, Seal } from './os/memfd.ts'
