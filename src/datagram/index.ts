/** passfd/datagram: AF_UNIX datagrams with descriptors, both ways; and two ways to them for callers of the package unix-dgram. */
export type { SocketName } from '../os/socket-name.ts'
export type { DatagramAddress } from './address.ts'
export { AttachedSocket, attach, type UnixDgramSocket } from './attach.ts'
export type { DatagramMessage } from './message.ts'
export { bind, type ConnectOptions, connect, unnamed } from './open.ts'
export type { BindOptions, DatagramOptions, QueueOptions } from './options.ts'
export type { DatagramData, SendOptions } from './send.ts'
export type { Sender } from './sender.ts'
export { type DatagramEvents, DatagramSocket, type Dropped } from './socket.ts'
export {
  createSocket,
  type ReceivedFrom,
  UnixSocket,
  type UnixSocketError,
  type UnixSocketEvents
} from './unix-dgram.ts'
