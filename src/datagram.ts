/** passfd/datagram: AF_UNIX datagrams with descriptors, both ways; and two ways to them for callers of the package unix-dgram. */
export type { SocketName } from './address.ts'
export type { DatagramAddress } from './datagram-address.ts'
export { AttachedSocket, attach, type UnixDgramSocket } from './datagram-attach.ts'
export type { DatagramMessage } from './datagram-message.ts'
export type { BindOptions, DatagramOptions, QueueOptions } from './datagram-options.ts'
export type { DatagramData, SendOptions } from './datagram-send.ts'
export type { Sender } from './datagram-sender.ts'
export {
  bind,
  type ConnectOptions,
  connect,
  type DatagramEvents,
  DatagramSocket,
  type Dropped,
  unnamed
} from './datagram-socket.ts'
export {
  createSocket,
  type ReceivedFrom,
  UnixSocket,
  type UnixSocketError,
  type UnixSocketEvents
} from './unix-dgram.ts'
