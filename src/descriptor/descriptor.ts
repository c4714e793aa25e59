/** `Descriptor`: one open file descriptor with one owner, and the methods that change its owner. */

import type { Socket as DatagramSocket } from 'node:dgram'
import * as fs from 'node:fs'
import type { Server, Socket } from 'node:net'
import type { Duplex, Readable, Writable } from 'node:stream'
import { inspect, promisify } from 'node:util'
import { isMainThread } from 'node:worker_threads'
import { checkInteger, checkOneOf, checkOwnCopy, checkPathText } from '../base/check.ts'
import { EBADF, EBUSY, EEXIST } from '../base/errno.ts'
import { checked, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { mark } from '../base/package-copy.ts'
import { markUncloneable } from '../base/uncloneable.ts'
import { noneAs, passedAs } from '../os/activation.ts'
import { bindSocket } from '../os/bind.ts'
import { type BindSpec as BindSpecOf, readActivatedSpec } from '../os/bind-spec.ts'
import { discard } from '../os/loop.ts'
import { createMemory, type MemfdOptions } from '../os/memfd.ts'
import { checkUsable, native } from '../os/native.ts'
import { type Access, accessOf, flagsOf, type OpenFlags } from './access.ts'
import { type DescriptorSource, numberOf } from './from-node.ts'
import { GONE, type Gone, goneError } from './gone.ts'
import { DUPLEXES, FILES, isServed, KINDS, type Kind, LISTENERS, SOCKETS, STREAMS } from './kind.ts'
import { register, SETTLE, settleLater, unregister } from './leak.ts'
import { type Lender, lenderThatWas } from './lender.ts'
import { OpenFile } from './open-file.ts'
import type { ListenHandle } from './to-node.ts'
import * as convert from './to-node.ts'

/** The argument of `Descriptor.bind`. */
export type BindSpec = BindSpecOf<Descriptor>

const PAIR_OPTIONS = { type: true } as const satisfies KnownOptions<{ type?: unknown }>

const SOCKET_TYPES = { stream: 1, dgram: 2, seqpacket: 5 } as const

/** Only this module has this symbol. A call of the constructor without it adopts a number. */
const HELD: unique symbol = Symbol('held')
const numbers = new Int32Array(2)
const openNumber = promisify(fs.open)

/**
 * @internal Moves the number out of an open descriptor, on behalf of `by`, and returns it. The caller owns the number now, together with
 * the dups that share it. Throws if the descriptor is not open.
 */
export let moveOutShared: (descriptor: Descriptor, by: string) => number
/** @internal Moves a number out that no dup shares, for a caller that watches the number or gives it away. Throws as `moveOutShared`. */
export let moveOut: (descriptor: Descriptor, by: string) => number
/** @internal The same for several, all of which are open: all move, or, if one of them can't be duplicated, none. */
export let moveAllOut: (descriptors: readonly Descriptor[], by: string) => number[]
/** @internal The number of an open descriptor, which keeps it. Throws if it is not open. */
export let assertOpen: (descriptor: Descriptor) => number
/** @internal Puts its number back into a moved Descriptor, which is open again. `lender` lends it, or without a lender the caller owns it. */
export let restoreNumber: (descriptor: Descriptor, fd: number, lender: Lender | undefined) => void
/** @internal Takes the number out of an open descriptor until `unlock`: every use throws ERR_PASSFD_TAKEOVER_NOT_READY. Returns it; the caller owns it. */
export let lock: (descriptor: Descriptor) => number
/** @internal Puts the number of a locked descriptor back. `fd` -1: it was closed meanwhile. */
export let unlock: (descriptor: Descriptor, fd: number) => void
/** @internal True if other code has closed the number of a moved Descriptor. Then the number has no owner, and the Descriptor counts as closed. */
export let forgetIfClosed: (descriptor: Descriptor, fd: number) => boolean
/** @internal The scope is over: gives the number if nothing claimed it (the caller closes it), else -1. */
export let endLoan: (descriptor: Descriptor, ended: string) => number
/** @internal Makes a Descriptor, which the caller owns, for a number that came with a reply. */
export let received: (fd: number) => Descriptor
/** @internal Whether it came from a peer: its close may block, so passfd does not close it on the event loop. */
export let isForeign: (descriptor: Descriptor) => boolean
/** @internal Closes a lent descriptor when it is collected, because its channel has ended and the program may never use it. */
export let guardLoan: (descriptor: Descriptor) => void
/** @internal Moves the open descriptor into a new Descriptor, which the caller owns. `by` has used the given one up. */
export let handOver: (descriptor: Descriptor, by: string) => Descriptor
/** @internal A token that it shares with its dups. */
export let descriptionOf: (descriptor: Descriptor) => object
/** @internal */
export let isDescription: (descriptor: Descriptor, description: object) => boolean
/** @internal Checks by private fields, so a Proxy or an object with the same prototype is none. */
export let isDescriptor: (value: object) => value is Descriptor

/**
 * Holds one open file descriptor, with one owner: you. Sending *moves* it, `detach()` gives its number away, the `to…()` conversions use it up,
 * and `close()` closes it. Every later use throws an error whose code and message name the call.
 *
 * passfd *lends* a received Descriptor until the message's scope ends; `claim()` keeps it. There is no `fd` property, because Node's own
 * functions would go on using the number after it was closed.
 */
export class Descriptor implements Disposable {
  #fd = -1
  #kind: Kind | undefined
  #gone: Gone | undefined
  #by = ''
  #lender: Lender | undefined
  #watched = false
  #registered = false
  #description: object | undefined
  #foreign: boolean
  /** The number was seen: it stays this Descriptor's, and no other's. */
  #known = false

  /** Works as `Descriptor.adopt(fd)`. */
  constructor(fd: number)
  /** @internal `fd`: a number that the shim holds already. `lender` lends it; undefined: the caller owns it. */
  constructor(fd: number, held: typeof HELD, lender: Lender | undefined)
  constructor(fd: number, held?: typeof HELD, lender?: Lender) {
    markUncloneable(this)
    if (held === HELD) this.#lender = lender
    else {
      lender = undefined
      adopt(fd)
      this.#known = true
    }
    this.#fd = fd
    this.#foreign = lender !== undefined
    if (lender === undefined) this.#watch()
  }

  /**
   * Takes over a number. The Descriptor owns it from now on, so the caller must not close it. It becomes close-on-exec.
   * @throws `EBADF` (a system error) if it is not open; `ERR_PASSFD_DESCRIPTOR_OWNED` if passfd owns it already.
   */
  static adopt(fd: number): Descriptor {
    return new Descriptor(fd)
  }

  /**
   * Duplicates (dup(2)) the descriptor inside a socket, server, `FileHandle`, stream, terminal of node-pty, any object with an `fd`, or a
   * number. The caller owns the duplicate, and the source does not change. Both share offset, file status flags and locks (open(2)).
   * @throws `ERR_PASSFD_DESCRIPTOR_SOURCE` if the source has no descriptor (for example a stream that isn't open yet) or is a `TLSSocket`, whose
   * keys would be missing; `ERR_PASSFD_UNREAD` if it is a socket, pipe or terminal with unread bytes in Node.
   */
  static from(source: DescriptorSource): Descriptor {
    checkUsable()
    const number = numberOf(source)
    return own(checked(native.dup(number), 'dup', String(number)))
  }

  /** Opens a file as `fs.open` does (flags default `'r'`, mode 0o666). Rejects with Node's own error. */
  static async open(path: string, flags: string | number = 'r', mode = 0o666): Promise<Descriptor> {
    checkUsable()
    checkPath(path)
    return adoptOpened(await openNumber(path, flags, mode))
  }

  /** Opens a file as `fs.openSync` does, and blocks meanwhile. */
  static openSync(path: string, flags: string | number = 'r', mode = 0o666): Descriptor {
    checkUsable()
    checkPath(path)
    return adoptOpened(fs.openSync(path, flags, mode))
  }

  /**
   * Makes a socket that is bound, and listens if its kind listens; no process accepts from it yet. The caller owns it.
   *
   * TCP: `host` defaults to `::` or, without IPv6, `0.0.0.0`; `backlog` to 511; `port` 0 chooses a free port.
   *
   * A socket file has mode 0600 from the moment it exists unless `mode` says otherwise. `owner` and `group` (numbers, or names in /etc/passwd
   * and /etc/group) are set before anybody can connect. It rejects with EPERM if this process may not set them (chown(2)).
   *
   * With `activated` it returns the socket of this name from the service manager, of whatever kind (passfd/systemd). It binds the address only
   * if the manager has given no listener and no datagram socket. A Descriptor is returned as it is.
   */
  static async bind(spec: BindSpec): Promise<Descriptor> {
    if (spec instanceof Descriptor) return spec
    checkOwnCopy(spec, 'spec', 'a Descriptor of this copy of passfd')
    const { activated, address } = readActivatedSpec(spec, 'spec', '')
    const given = activated === undefined ? undefined : passedAs(activated, isServed)
    if (given !== undefined) return own(given.take())
    if (address === undefined) throw noneAs(activated!)
    return own((await bindSocket(address)).fd)
  }

  /** Makes a pipe (pipe(2)), and the caller owns both ends. Bytes that are written to `writable` are read from `readable`. */
  static pipe(): { readable: Descriptor; writable: Descriptor } {
    checked(native.pipe(numbers), 'pipe')
    const [readable, writable] = numbers as unknown as [number, number]
    return { readable: own(readable), writable: own(writable) }
  }

  /** Makes two connected Unix sockets (socketpair(2)), which the caller owns. Default type: `'stream'`. */
  static socketpair(options: { type?: 'stream' | 'dgram' | 'seqpacket' } = {}): [Descriptor, Descriptor] {
    const { type = 'stream' } = readOptions(options, PAIR_OPTIONS)
    checkOneOf(type, 'type', Object.keys(SOCKET_TYPES))
    checked(native.socketpair(SOCKET_TYPES[type], numbers), 'socketpair')
    const [left, right] = numbers as unknown as [number, number]
    return [own(left), own(right)]
  }

  /**
   * Makes anonymous memory that is read, written, truncated and passed like a file (memfd_create(2)).
   *
   * The name, at most 249 bytes, shows in `/proc` only; default `'passfd'`. `size` is in bytes, default 0; the bytes are zeros. `seals` forbid
   * changes for ever (fcntl(2)). A receiver that maps the memory should require `'shrink'`. Without `'seal'` further seals can be added later.
   */
  static memfd(name = 'passfd', options: MemfdOptions = {}): Descriptor {
    return own(createMemory(name, options))
  }

  /**
   * Opens a process (pidfd_open(2)). The Descriptor means this process even after its pid is used again. It can be passed on.
   * @throws `ESRCH` (a system error) if there is no such process.
   */
  static pidfd(pid: number): Descriptor {
    checkInteger(pid, 'pid', 1, 0x7fffffff)
    return own(checked(native.pidfd(pid), 'pidfd_open', String(pid)))
  }

  /**
   * Reports what it is open on. The first use asks the kernel (it never blocks), and later uses remember the answer. Untrusted when a peer sent
   * it.
   */
  get kind(): Kind {
    if (this.#kind === undefined) this.#kind = KINDS[native.kind(this.#open())] ?? 'other'
    return this.#kind
  }

  /**
   * Reports which directions this descriptor is open for: `'read'`, `'write'`, `'read-write'`, or `'none'`.
   *
   * Check it when a peer sent the descriptor: a read from one that is `'write'` fails with EBADF. The value never changes. It asks the kernel
   * (fcntl(2)), and never blocks.
   *
   * `'none'` is an `O_PATH` descriptor, or one that allows ioctl(2) only. A socket is always `'read-write'`, also when it listens or was
   * shut down. A memfd with the seal `'write'` is `'read-write'` too, and refuses writes all the same.
   * @throws the error that says what took the descriptor, if it is not open any more.
   */
  get access(): Access {
    return accessOf(this.#open())
  }

  /**
   * Reports the flags of the open file: `append`, `nonblocking`, `sync`, `direct` and `path` (open(2)).
   *
   * All holders of the open file share the flags, and may change `append`, `nonblocking` and `direct` (fcntl(2)). So each use asks the kernel,
   * and returns a new object. It never blocks.
   * @throws the error that says what took the descriptor, if it is not open any more.
   */
  get flags(): OpenFlags {
    return flagsOf(this.#open())
  }

  /** Reports whether it was closed, moved, detached or converted, or its scope has ended. */
  get closed(): boolean {
    return this.#fd < 0
  }

  /** Returns the number, for a call that only uses it. The Descriptor still owns it: never close or keep it. */
  borrow(): number {
    this.#separate()
    this.#known = true
    return this.#fd
  }

  /** Makes a second Descriptor of the same open file (dup(2)), which the caller owns without a scope. Both share offset and status flags. */
  dup(): Descriptor {
    // Both share one number until borrow() or detach() shows it. So sending a dup takes no dup(2)
    const duplicate = this.#known ? native.dup : native.share
    const copy = own(checked(duplicate(this.#open()), 'dup'))
    copy.#description = descriptionOf(this)
    copy.#foreign = this.#foreign
    return copy
  }

  /** Keeps a received descriptor beyond its message's scope. On any other it changes nothing. */
  claim(): this {
    this.#open()
    this.#unlend()
    return this
  }

  /** Returns the number, which the caller must close. It is close-on-exec. */
  detach(): number {
    this.#separate()
    const fd = this.#leave('DESCRIPTOR_DETACHED', '')
    native.release(fd)
    return fd
  }

  /**
   * Closes it. passfd closes a lent Descriptor on a helper thread, because close(2) may block on a slow file system or a lingering socket that
   * the peer chose. A Descriptor that you own is closed before this returns.
   * @throws the error that says what took it, if it is not open any more.
   */
  close(): void {
    this.#open()
    const lender = this.#lender
    this.#lender = undefined // #leave would count it as kept
    const fd = this.#leave('DESCRIPTOR_CLOSED', '')
    if (lender !== undefined) lender.discard(fd)
    else native.close(fd)
  }

  /** Closes it if it is still open. */
  [Symbol.dispose](): void {
    if (this.#fd >= 0) this.close()
  }

  /**
   * Converts it to a `net.Socket`, which is paused until the program reads it. Kinds: tcp, unix-stream. Uses this up. Two effects concern every
   * holder of the connection: it becomes non-blocking, and the socket's `end()` shuts it down for writing.
   */
  toSocket(): Socket {
    return this.#convert('toSocket()', SOCKETS, convert.socket)
  }

  /** Converts it to a `net.Server` that accepts from it. Kinds: tcp-listener, unix-stream-listener. Uses this up. */
  async toServer(): Promise<Server> {
    return this.#convert('toServer()', LISTENERS, convert.server)
  }

  /**
   * Converts it to `{ fd }` for the `listen()` of any server (http, https, http2, Express, Fastify, …), which then owns it. Node sets the
   * backlog again, to 511 unless `listen(handle, backlog)` says otherwise. Uses this up. Kinds: as `toServer()`. In a worker of `node:cluster` it throws
   * ERR_PASSFD_CLUSTER_WORKER.
   */
  toListenHandle(): ListenHandle {
    return this.#convert('toListenHandle()', LISTENERS, convert.listenHandle)
  }

  /** Converts it to a `dgram.Socket`. Kind: udp. Uses this up. */
  toDatagram(): DatagramSocket {
    return this.#convert('toDatagram()', ['udp'], convert.datagram)
  }

  /**
   * Converts it to a stream that reads it, which then owns it: an `fs.ReadStream` for a file, memfd or device, from its offset on; a
   * `net.Socket` for a tcp or unix-stream; for a pipe or tty a stream that does not change `O_NONBLOCK`: see `toDuplex()`. Uses this up.
   * @throws `ERR_PASSFD_DESCRIPTOR_DIRECTION` if it is not open for reading.
   */
  toReadable(): Readable {
    return this.#convert('toReadable()', STREAMS, convert.readable)
  }

  /**
   * Converts it to a stream that writes to it, which then owns it: an `fs.WriteStream` for a file, memfd or device; otherwise as `toReadable()`.
   * Uses this up.
   * @throws `ERR_PASSFD_DESCRIPTOR_DIRECTION` if it is not open for writing.
   */
  toWritable(): Writable {
    return this.#convert('toWritable()', STREAMS, convert.writable)
  }

  /**
   * Converts it to a stream for both directions, or for the one direction of a pipe's end. Kinds: tcp, unix-stream (as `toSocket()`), pipe, tty.
   * Uses this up.
   *
   * Other processes may share a pipe or terminal, such as the user's shell, and a changed `O_NONBLOCK` would break them. So passfd reads and
   * writes without that flag, and opens a terminal or a named pipe a second time for it. There is one exception: a pseudoterminal's master can't
   * be opened twice and belongs to a program, so passfd makes it non-blocking. Its stream ends when all its slaves are closed.
   * @throws `ERR_PASSFD_DESCRIPTOR_SHARED` for a terminal that this process may not open.
   */
  toDuplex(): Duplex {
    return this.#convert('toDuplex()', DUPLEXES, convert.duplex)
  }

  /**
   * Converts this Descriptor to an `OpenFile`, which then owns the open file: close it.
   *
   * It reads and writes at any position. An `OpenFile` has these methods of Node's `FileHandle`: `read`, `write`, `readv`, `writev`, `readFile`,
   * `writeFile`, `appendFile`, `stat`, `truncate`, `sync`, `datasync`, `close`.
   *
   * It lacks `fd`, `chmod`, `chown`, `utimes`, `createReadStream`, `createWriteStream`, `readableWebStream`, `readLines` and the `'close'`
   * event. `toReadable()` and `toWritable()` give streams. For the others call `fs.fchmod(descriptor.borrow(), …)` and the like before the
   * conversion. Kinds: file, memfd, device.
   *
   * It does not check `access`: a write to a file that is open for reading rejects with EBADF.
   */
  toFile(): OpenFile {
    return this.#convert('toFile()', FILES, (fd, kind) => new OpenFile(fd, kind))
  }

  /** Sets a terminal's size (`TIOCSWINSZ`, ioctl_tty(2)) in characters. The kernel sends SIGWINCH to its foreground process. Kind: tty. */
  resize(size: { columns: number; rows: number }): void {
    this.#need('resize()', ['tty'])
    for (const name of ['columns', 'rows'] as const) checkInteger(size[name], name, 0, 65535)
    checked(native.resize(this.#fd, size.columns, size.rows), 'ioctl')
  }

  /** Throws: JSON can't carry a descriptor. */
  toJSON(): never {
    throw new PassfdError('ENCODE', { detail: 'a Descriptor can be sent through a passfd channel only, not as JSON' })
  }

  /** Shows the kind and the number, or what took it. */
  [inspect.custom](): string {
    if (this.#fd >= 0) return `Descriptor(${this.kind}, ${this.#lender === undefined ? '' : 'lent, '}${this.#fd})`
    return `Descriptor(${this.#kind === undefined ? '' : `${this.#kind}, `}${GONE[this.#gone!]}${this.#by === '' ? '' : ` by ${this.#by}`})`
  }

  #open(): number {
    if (this.#fd < 0) throw goneError(this.#gone!, this.#kind, this.#by, this.#lender)
    return this.#fd
  }

  #need(operation: string, kinds: readonly Kind[]): void {
    this.#open() // the kind may be remembered
    if (!kinds.includes(this.kind))
      throw new PassfdError('DESCRIPTOR_KIND', { operation, expected: kinds.join(' or '), actual: this.kind })
  }

  #convert<T>(operation: string, kinds: readonly Kind[], make: (fd: number, kind: Kind) => T): T {
    this.#need(operation, kinds)
    this.#separate()
    const made = make(this.#fd, this.kind) // if it throws, this Descriptor still owns the number
    this.#leave('DESCRIPTOR_CONVERTED', operation)
    return made
  }

  /** Makes sure that no dup shares the number any more. */
  #separate(): void {
    const fd = this.#open()
    if (this.#known) return
    const separate = checked(native.separate(fd), 'dup')
    if (separate === fd) return
    this.#unwatch()
    this.#fd = separate
    if (this.#lender === undefined) this.#watch()
  }

  #watch(): void {
    if (this.#watched) return
    this.#watched = true
    settleLater(this)
  }

  /** @internal The turn that made it is over. */
  [SETTLE](): void {
    if (!this.#watched || this.#registered || this.#fd < 0) return
    this.#registered = true
    register(this, this.#fd)
  }

  #unwatch(): void {
    this.#watched = false
    if (!this.#registered) return
    this.#registered = false
    unregister(this)
  }

  #unlend(): void {
    if (this.#lender === undefined) return
    this.#lender.kept()
    this.#lender = undefined
    this.#watch()
  }

  /** The one exit: the number leaves this object, which remembers why. */
  #leave(reason: Gone, by: string): number {
    const fd = this.#open()
    this.#unwatch()
    if (this.#lender !== undefined) {
      this.#lender.kept()
      this.#lender = undefined
    }
    this.#fd = -1
    this.#gone = reason
    this.#by = by
    return fd
  }

  static {
    moveOutShared = (descriptor, by) => descriptor.#leave('DESCRIPTOR_MOVED', by)
    moveOut = (descriptor, by) => {
      descriptor.#separate()
      return descriptor.#leave('DESCRIPTOR_MOVED', by)
    }
    moveAllOut = (descriptors, by) => {
      for (const descriptor of descriptors) descriptor.#separate()
      return descriptors.map(descriptor => descriptor.#leave('DESCRIPTOR_MOVED', by))
    }
    assertOpen = descriptor => descriptor.#open()
    lock = descriptor => {
      void descriptor.kind // it can be looked at meanwhile
      descriptor.#separate()
      return descriptor.#leave('TAKEOVER_NOT_READY', '')
    }
    unlock = (descriptor, fd) => {
      if (fd >= 0) restoreNumber(descriptor, fd, undefined)
      else descriptor.#gone = 'DESCRIPTOR_CLOSED'
    }
    restoreNumber = (descriptor, fd, lender) => {
      descriptor.#fd = fd
      descriptor.#gone = undefined
      descriptor.#lender = lender
      if (lender === undefined) descriptor.#watch()
    }
    forgetIfClosed = (descriptor, fd) => {
      if (native.statusFlags(fd) !== EBADF) return false
      // One of several owners only leaves; the last one must not close what may be another file by now
      if (native.release(fd) === EBUSY) native.close(fd)
      descriptor.#gone = 'DESCRIPTOR_CLOSED'
      return true
    }
    endLoan = (descriptor, ended) => {
      const lender = descriptor.#lender
      if (lender === undefined || descriptor.#fd < 0) return -1
      const fd = descriptor.#fd
      descriptor.#unwatch()
      descriptor.#fd = -1
      descriptor.#gone = 'DESCRIPTOR_UNCLAIMED'
      descriptor.#lender = lenderThatWas(lender, ended)
      return fd
    }
    handOver = (descriptor, by) => {
      const made = own(descriptor.#leave('DESCRIPTOR_CONVERTED', by))
      made.#known = descriptor.#known
      made.#kind = descriptor.#kind
      made.#description = descriptor.#description
      made.#foreign = descriptor.#foreign
      return made
    }
    descriptionOf = descriptor => {
      descriptor.#description ??= {}
      return descriptor.#description
    }
    isDescriptor = (value): value is Descriptor => #description in value
    isDescription = (descriptor, description) => descriptor.#description === description
    received = fd => {
      const descriptor = own(fd)
      descriptor.#foreign = true
      return descriptor
    }
    isForeign = descriptor => descriptor.#foreign
    guardLoan = descriptor => {
      if (descriptor.#lender !== undefined && descriptor.#fd >= 0) descriptor.#watch()
    }
  }
}
mark(Descriptor, 'Descriptor')

/** @internal Makes a Descriptor, which the caller owns, for a number that the shim holds already. */
export function own(fd: number): Descriptor {
  return new Descriptor(fd, HELD, undefined)
}

/** @internal Closes Descriptors that came from another process, on a helper thread, because close(2) of them may block. */
export function closeOffLoop(descriptors: readonly Descriptor[]): void {
  discard(descriptors.map(descriptor => moveOutShared(descriptor, 'its close')))
}

/** @internal One for a number that the shim holds already, lent by `lender`. */
export function lent(fd: number, lender: Lender): Descriptor {
  return new Descriptor(fd, HELD, lender)
}

/** The rest is Node's to check, which takes Buffers and URLs, too. */
function checkPath(path: unknown): void {
  if (typeof path === 'string') checkPathText(path, 'path')
}

function adopt(fd: number): void {
  checkInteger(fd, 'fd', 0, 0x7fffffff)
  const result = native.hold(fd)
  if (result === EEXIST) throw new PassfdError('DESCRIPTOR_OWNED', { fd })
  if (result < 0) throw systemError(result, 'fcntl', String(fd))
}

/**
 * When a worker thread ends, Node closes the numbers that `fs.open` has returned and that `fs.close` did not close (`trackUnmanagedFds`), also
 * if another owner has them by then. So in a worker thread passfd owns a duplicate.
 */
function adoptOpened(fd: number): Descriptor {
  if (isMainThread) {
    try {
      adopt(fd)
      return own(fd)
    } catch (error) {
      fs.closeSync(fd)
      throw error
    }
  }
  try {
    return own(checked(native.dup(fd), 'dup'))
  } finally {
    fs.closeSync(fd)
  }
}
