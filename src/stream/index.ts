/** passfd/stream: bytes and descriptors without framing, for other protocols than passfd's. */
export { DescriptorStream } from './descriptor-stream.ts'
export { connect, connectPackets, listen, listenPackets, type StreamAddress } from './open.ts'
export type { AdmissionOptions, PacketOptions, ServerOptions, StreamOptions } from './options.ts'
export { type Packet, PacketSocket, type PacketSocketEvents } from './packet-socket.ts'
export type { StreamPart } from './parts.ts'
export { StreamServer, type StreamServerEvents } from './server.ts'
