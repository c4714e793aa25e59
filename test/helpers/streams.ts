/** Both ends of a raw stream, or one of them by hand. */
import { once } from 'node:events'
import { own } from '../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../src/index.ts'
import { MESSAGE_FIRST, native } from '../../src/os/native.ts'
import { DescriptorStream, type PacketOptions, PacketSocket, type StreamOptions } from '../../src/stream/index.ts'

export const EAGAIN = -11

export function streamPair(
  options: StreamOptions = {},
  otherOptions: StreamOptions = {}
): [DescriptorStream, DescriptorStream] {
  const [left, right] = Descriptor.socketpair()
  return [DescriptorStream.from(left, options), DescriptorStream.from(right, otherOptions)]
}

/** A stream and the number of its peer's socket, which the test closes. */
export function streamAndNumber(options: StreamOptions = {}): [DescriptorStream, number] {
  const [left, right] = numbers(1)
  return [DescriptorStream.from(own(left), options), right]
}

export function packetPair(
  options: PacketOptions = {},
  otherOptions: PacketOptions = {}
): [PacketSocket, PacketSocket] {
  const [left, right] = numbers(5)
  return [PacketSocket.from(own(left), options), PacketSocket.from(own(right), otherOptions)]
}

/** A packet socket and the number of its peer's socket, which the test closes. */
export function packetAndNumber(options: PacketOptions = {}): [PacketSocket, number] {
  const [left, right] = numbers(5)
  return [PacketSocket.from(own(left), options), right]
}

/** One write of the test's own; the numbers stay the test's. Returns what the kernel took, or -errno. */
export function write(to: number, bytes: string | Buffer, ...fds: number[]): number {
  const data = Buffer.from(bytes as string)
  return native.send(to, data, 0, data.length, Int32Array.from(fds), 0, fds.length)
}

export interface Read {
  text: string
  fds: number[]
}

/** One read of the test's own, or -errno. The numbers are the test's to close. */
export function read(from: number, room = 65536): Read | number {
  const bytes = Buffer.alloc(room)
  const results = new Int32Array(MESSAGE_FIRST + 2 * 253)
  const got = native.receiveMessage(from, bytes, 0, room, results, Buffer.alloc(108), false)
  if (got < 0) return got
  return {
    text: bytes.toString('latin1', 0, got),
    fds: Array.from(results.subarray(MESSAGE_FIRST, MESSAGE_FIRST + results[1]!))
  }
}

export function close(...fds: number[]): void {
  native.closeMany(Int32Array.from(fds), 0, fds.length)
}

/** Destroys them and waits until they have closed. */
export async function destroyed(...streams: DescriptorStream[]): Promise<void> {
  for (const stream of streams) {
    const closed = stream.closed ? undefined : once(stream, 'close')
    stream.destroy()
    await closed
  }
}

/** What happens on a stream, in order: its bytes as text, its descriptors' positions. */
export function recorded(stream: DescriptorStream): { events: string[]; descriptors: Descriptor[]; closeAll(): void } {
  const events: string[] = []
  const descriptors: Descriptor[] = []
  stream.on('descriptors', (came, position) => {
    events.push(`${came.length} at ${position}`)
    descriptors.push(...came)
  })
  stream.on('data', (bytes: Buffer) => events.push(bytes.toString('latin1')))
  return {
    events,
    descriptors,
    closeAll: () => {
      for (const descriptor of descriptors.splice(0)) descriptor.close()
    }
  }
}

function numbers(type: number): [number, number] {
  const ends = new Int32Array(2)
  native.socketpair(type, ends)
  return [ends[0]!, ends[1]!]
}
