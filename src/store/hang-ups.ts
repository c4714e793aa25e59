/** Stored descriptors whose other end hangs up. */
import { ENOTCONN } from '../base/errno.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { assertOpen, type Descriptor } from '../descriptor/descriptor.ts'
import type { Kind } from '../descriptor/kind.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'

/** What a wake-up reports. */
const FEW = 128
const STREAMS: readonly Kind[] = ['tcp', 'unix-stream', 'unix-seqpacket']
const OTHERS: readonly Kind[] = ['pipe', 'tty']
const name = new Uint8Array(108)
const numbers = new Int32Array(2)

/** Whether the kernel reports that the other end hangs up: of pipes, terminals and connected sockets. */
export function hasOtherEnd(descriptor: Descriptor): boolean {
  return OTHERS.includes(descriptor.kind) || isConnected(descriptor)
}

/** A TCP socket without a connection would be reported as hung up at once (tcp_poll() in the kernel). */
export function isConnected(descriptor: Descriptor): boolean {
  const { kind } = descriptor
  if (!STREAMS.includes(kind)) return false
  const fd = assertOpen(descriptor)
  return (kind === 'tcp' ? native.inetName(fd, true, numbers, name) : native.name(fd, true, name)) !== ENOTCONN
}

/** Calls `hungUp` with the key of a descriptor whose other end has hung up, once, and removes it. Keeps no process running. */
export class HangUps<Key> {
  readonly #hungUp: (key: Key) => void
  readonly #keys = new Map<number, Key>()
  readonly #reported = new Int32Array(FEW)
  #set: { fd: number; watcher: Watcher } | undefined

  constructor(hungUp: (key: Key) => void) {
    this.#hungUp = hungUp
  }

  /** The descriptors stay the caller's, who calls `remove()` before it closes them. Throws the system's error, and watches none of them then. */
  add(key: Key, descriptors: readonly Descriptor[]): void {
    const watched = descriptors.filter(hasOtherEnd)
    try {
      for (const descriptor of watched) {
        const fd = assertOpen(descriptor)
        this.#set ??= open(set => this.#happened(set))
        checked(native.edgeAddEnd(this.#set.fd, fd), 'epoll_ctl')
        this.#keys.set(fd, key)
      }
    } catch (error) {
      this.remove(watched)
      throw error
    }
  }

  remove(descriptors: readonly Descriptor[]): void {
    for (const descriptor of descriptors) {
      if (descriptor.closed) continue
      const fd = assertOpen(descriptor)
      if (this.#keys.delete(fd)) native.edgeRemove(this.#set!.fd, fd)
    }
    if (this.#keys.size > 0 || this.#set === undefined) return
    this.#set.watcher.end()
    native.close(this.#set.fd)
    this.#set = undefined
  }

  #happened(set: number): void {
    const count = native.edgeReady(set, this.#reported)
    const keys = new Set<Key>()
    for (const told of this.#reported.slice(0, Math.max(0, count))) {
      const key = this.#keys.get(told < 0 ? ~told : told)
      if (key !== undefined) keys.add(key)
    }
    for (const key of keys) this.#hungUp(key)
  }
}

function open(happened: (set: number) => void): { fd: number; watcher: Watcher } {
  const fd = checked(native.edgeSet(), 'epoll_create')
  try {
    const watcher = new Watcher(fd, () => happened(fd))
    watcher.unref()
    return { fd, watcher }
  } catch (error) {
    native.close(fd)
    throw error
  }
}

/** Throws ERR_PASSFD_STORE_POLL if none of them can hang up. */
export function checkPollable(descriptors: readonly Descriptor[]): void {
  if (descriptors.some(hasOtherEnd)) return
  const data = { kinds: [...new Set(descriptors.map(({ kind }) => kind))].join(', ') }
  throw new PassfdError('STORE_POLL', data, { data })
}
