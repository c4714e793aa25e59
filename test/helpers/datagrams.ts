/** Datagram sockets, and what tests do with them again and again. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type BindOptions, bind, type DatagramMessage, type DatagramSocket, unnamed } from '../../src/datagram/index.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'

/** A name that nobody else has. */
export function abstractName(): { abstract: string } {
  return { abstract: `passfd-test-${randomBytes(8).toString('hex')}` }
}

/** A socket with such a name, and one without a name that sends to it. */
export async function boundPair(options: BindOptions = {}): Promise<[DatagramSocket, DatagramSocket]> {
  return [await bind(abstractName(), options), unnamed(options)]
}

/** The next datagram of a socket that nothing else reads, its descriptors claimed. */
export async function nextDatagram(socket: DatagramSocket): Promise<DatagramMessage> {
  socket.once('message', message => void message.claim())
  const [message] = await once(socket, 'message')
  return message
}

/** The texts of the next `count` datagrams. */
export async function texts(socket: DatagramSocket, count: number): Promise<string[]> {
  const found: string[] = []
  if (count > 0)
    for await (const { data } of socket) {
      found.push(data.toString())
      if (found.length === count) break
    }
  return found
}

/** Sends until the receiver's queue is full, around passfd. Returns how many went in. */
export function fill(address: { abstract: string }): number {
  const fd = native.socket(2)
  try {
    const name = Buffer.from(`\0${address.abstract}`)
    for (let count = 0; ; count++)
      if (native.sendMessage(fd, Buffer.from(`filler ${count}`), 0, 8, new Int32Array(0), 0, 0, name) < 0) return count
  } finally {
    native.close(fd)
  }
}

/** Two datagram sockets without names, connected to each other. */
export function socketpair(): [Descriptor, Descriptor] {
  const numbers = new Int32Array(2)
  native.socketpair(2, numbers)
  return [...numbers].map(fd => Descriptor.adopt(release(fd))) as [Descriptor, Descriptor]
}

/** A number that nobody holds any more. */
export function release(fd: number): number {
  native.release(fd)
  return fd
}

export async function closeSockets(...sockets: { close(): Promise<void> }[]): Promise<void> {
  await Promise.all(sockets.map(socket => socket.close()))
}
