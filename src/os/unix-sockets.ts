/** All Unix sockets of this network namespace, and which of them are connected to each other: sock_diag(7). */
import { readSync, writeSync } from 'node:fs'
import { endianness } from 'node:os'
import { checked, systemError } from '../base/errors.ts'
import { native } from './native.ts'

export interface UnixSocket {
  readonly inode: number
  readonly type: 'stream' | 'dgram' | 'seqpacket'
  readonly listens: boolean
  /** As bind(2) got it: a path, which may be relative, or a name that begins with NUL. Accepted sockets have that of their listener. */
  readonly name: string | undefined
  /** The inode number of the socket file, 32 bits of it, if it was bound to a path. */
  readonly file: number | undefined
  /** Of the socket file: the kernel's number of the file system, 12 bits of major and 20 of minor number. */
  readonly device: number | undefined
  /** The inode of the socket at the other end. 0: none, or it was not accepted yet. */
  readonly peer: number
  /** Of a listener: the inodes of the sockets whose connections wait in its queue. */
  readonly waiting: readonly number[]
  /** Of a listener: how many may wait; otherwise the bytes that wait to be read by the other end. */
  readonly sent: number
  /** Of a listener: how many connections wait; otherwise the bytes that wait to be read here. Of datagrams: of the first one. */
  readonly received: number
  /** The user that owns the socket (Linux 5.3). */
  readonly uid: number | undefined
}

const AF_UNIX = 1
const LISTEN = 10
const TYPES: Record<number, UnixSocket['type']> = { 1: 'stream', 2: 'dgram', 5: 'seqpacket' }
const BY_FAMILY = 20
const REQUEST_AND_DUMP = 0x301
const ERROR = 2
const DONE = 3
/** Lengths of the headers of a netlink message, and of what sock_diag tells of a socket before its attributes. */
const MESSAGE = 16
const FACTS = 16
const ATTRIBUTE = 4
const NAME = 0
const FILE = 1
const PEER = 2
const WAITING = 3
const QUEUES = 4
const UID = 7
const SHOW = (1 << NAME) | (1 << FILE) | (1 << PEER) | (1 << WAITING) | (1 << QUEUES) | 0x40
const LITTLE = endianness() === 'LE'

/** Throws the system's error: ENOENT if the kernel was built without it (CONFIG_UNIX_DIAG). */
export function unixSockets(): UnixSocket[] {
  const fd = checked(native.diagnosis(), 'socket')
  try {
    writeSync(fd, question())
    const found: UnixSocket[] = []
    const part = Buffer.allocUnsafeSlow(65_536)
    // The kernel writes each part within the call that reads the one before, so none has to be waited for
    while (readPart(part.subarray(0, readSync(fd, part)), found));
    return found
  } finally {
    native.close(fd)
  }
}

function question(): Buffer {
  const message = new DataView(new ArrayBuffer(MESSAGE + 24))
  message.setUint32(0, message.byteLength, LITTLE)
  message.setUint16(4, BY_FAMILY, LITTLE)
  message.setUint16(6, REQUEST_AND_DUMP, LITTLE)
  message.setUint8(MESSAGE, AF_UNIX)
  message.setUint32(MESSAGE + 4, 0xffffffff, LITTLE) // all states
  message.setUint32(MESSAGE + 12, SHOW, LITTLE)
  return Buffer.from(message.buffer)
}

/** Returns false at the end. */
function readPart(part: Buffer, found: UnixSocket[]): boolean {
  const view = new DataView(part.buffer, part.byteOffset, part.length)
  for (let at = 0; at + MESSAGE <= part.length; ) {
    const length = view.getUint32(at, LITTLE)
    const type = view.getUint16(at + 4, LITTLE)
    if (type === DONE || length < MESSAGE) return false
    if (type === ERROR) throw systemError(view.getInt32(at + MESSAGE, LITTLE), 'sock_diag')
    found.push(readSocket(view, at + MESSAGE, at + length))
    at += aligned(length)
  }
  return part.length > 0
}

function readSocket(view: DataView, at: number, end: number): UnixSocket {
  const number = (place: number): number => view.getUint32(place, LITTLE)
  const values = new Map<number, number>()
  const lengths = new Map<number, number>()
  for (let place = at + FACTS; place + ATTRIBUTE <= end; ) {
    const length = view.getUint16(place, LITTLE)
    const type = view.getUint16(place + 2, LITTLE)
    if (length < ATTRIBUTE) break
    values.set(type, place + ATTRIBUTE)
    lengths.set(type, length - ATTRIBUTE)
    place += aligned(length)
  }
  const first = (type: number): number | undefined => {
    const place = values.get(type)
    return place === undefined ? undefined : number(place)
  }
  const name = values.get(NAME)
  const waiting = values.get(WAITING)
  const queues = values.get(QUEUES)
  return {
    inode: number(at + 4),
    type: TYPES[view.getUint8(at + 1)] ?? 'stream',
    listens: view.getUint8(at + 2) === LISTEN,
    name: name === undefined ? undefined : textOf(view, name, lengths.get(NAME)!),
    file: first(FILE),
    device: values.has(FILE) ? number(values.get(FILE)! + 4) : undefined,
    peer: first(PEER) ?? 0,
    waiting:
      waiting === undefined
        ? []
        : Array.from({ length: lengths.get(WAITING)! / 4 }, (_, index) => number(waiting + 4 * index)),
    received: queues === undefined ? 0 : number(queues),
    sent: queues === undefined ? 0 : number(queues + 4),
    uid: first(UID)
  }
}

/** A path ends with a NUL byte, which the kernel counts. */
function textOf(view: DataView, at: number, length: number): string {
  const bytes = Buffer.from(view.buffer, view.byteOffset + at, length)
  const end = bytes[0] === 0 ? -1 : bytes.indexOf(0)
  return bytes.toString('utf8', 0, end < 0 ? length : end)
}

function aligned(length: number): number {
  return (length + 3) & ~3
}
