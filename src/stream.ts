/** passfd/stream: bytes and descriptors without framing, for protocols that are not ours. */
export { DescriptorStream, type StreamPart } from './descriptor-stream.ts'
export { type Packet, PacketSocket, type PacketSocketEvents } from './packet-socket.ts'
export { connect, connectPackets, listen, listenPackets, type StreamAddress } from './stream-open.ts'
export type { AdmissionOptions, PacketOptions, ServerOptions, StreamOptions } from './stream-options.ts'
export { StreamServer, type StreamServerEvents } from './stream-server.ts'
