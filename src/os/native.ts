/**
 * The shim's typed interface, and the one binding of this evaluation.
 *
 * Every call returns the result of the system call (>= 0) or -errno. None throws for a failure of the system. Every descriptor that a call
 * creates is close-on-exec from the first instant and *held*: it is in this environment's table until `close`, `closeLater` or `release`
 * removes it. When the environment (a worker thread, for example) ends, the shim closes all numbers that are still held.
 */
import type { PassfdError } from '../base/errors.ts'
import { load } from './load.ts'

/** The events of a watcher, as bits (also those of `interest`). */
export const READABLE = 1
export const WRITABLE = 2
/** A listener's watcher has failed, and reports nothing more. */
export const FAILED = 8
/** `closeLater` has closed a batch: the first argument is its tag, `results[0]` the number closed. */
export const CLOSED = 16

/** Places in the `results` array after a read. */
export const RESULT_BYTES = 0
export const RESULT_DESCRIPTORS = 1
export const RESULT_FLAGS = 2
export const RESULT_FIRST = 3
/** `results[RESULT_FLAGS]`: the kernel dropped descriptors (`MSG_CTRUNC`, recvmsg(2)). */
export const TRUNCATED = 1

/** Places in the array that `receivePlaced` and `receiveMessage` fill: at least 8 + 2 × 253. The first three are as above. */
export const MESSAGE_PLACE = 3 // receivePlaced: which of the bytes the descriptors came with
export const MESSAGE_NAME = 3 // receiveMessage: length of the sender's address
export const MESSAGE_PID = 4
export const MESSAGE_UID = 5
export const MESSAGE_GID = 6
export const MESSAGE_PIDFD = 7 // held, or -errno: the kernel could not make it
export const MESSAGE_FIRST = 8
/** `receivePlaced` searches so many bytes for the exact place, with one read each. */
export const PLACED = 1024
/** Flags of `receiveMessage`, besides TRUNCATED. */
export const CUT = 2 // the message was longer than the room for it (`MSG_TRUNC`); the rest is gone
export const CREDENTIALS = 4 // pid, uid and gid are there (`passCredentials` is on)
export const PIDFD = 8 // MESSAGE_PIDFD is there (`passPidfd` is on)

/** What `acceptMany` needs of `addresses` for each connection, in bytes. */
export const ADDRESS = 64

export interface Native {
  /**
   * Once an environment: `area` is where reads go (pinned; bytes are put at `headroom` and after), `results`
   * (at least 3 + 2 × 253 places) what a read gave, `dispatch` is called with a watcher's id and what happened.
   */
  setup(area: Buffer, headroom: number, results: Int32Array, dispatch: (id: number, events: number) => void): void

  // Ownership
  /** Sets FD_CLOEXEC. -EBADF if not open, -EEXIST if held already, here or in another environment of this process (same shim). */
  hold(fd: number): number
  release(fd: number): number // out of the table, still open; -EBADF if not held, -EBUSY if it has several owners
  close(fd: number): number // -EBADF, and nothing is closed, if not held
  closeMany(fds: Int32Array, start: number, count: number): number // how many were closed
  /**
   * Closes on a helper thread, as close(2) may block; with a tag > 0 `dispatch(tag, CLOSED)` follows. Of up to 8 those that can't block
   * (/dev/null and its like) are closed before this returns.
   */
  closeLater(fds: Int32Array, start: number, count: number, tag: number): number
  pendingCloses(): number // handed to `closeLater` in this process and not closed yet
  /** true: the descriptors that a service manager has given this process are this environment's. -EALREADY: they were given out already. false: not yet. */
  activation(on: boolean): number
  held(): number // how many owners the descriptors of this environment have
  dup(fd: number): number // needs not be held
  /** Adds an owner to a held number. Each owner closes it once, and the last close closes it in the kernel. Returns `fd`. */
  share(fd: number): number
  /** Gives one of the owners a number of its own: `fd` if there is no other owner, otherwise a copy (dup(2)). */
  separate(fd: number): number

  // Creation. `out` receives the numbers
  socketpair(type: number, out: Int32Array): number // 1 stream, 2 dgram, 5 seqpacket
  pipe(out: Int32Array): number
  socket(type: number): number // AF_UNIX, non-blocking
  /** `name` as in sun_path, an abstract one with its leading NUL; mode < 0 leaves the mode to the umask. */
  bind(fd: number, name: Uint8Array, mode: number): number
  listen(fd: number, backlog: number): number
  accept(fd: number): number // non-blocking
  /**
   * Accepts the waiting connections, `most` at most (1 to `fds.length`), each as `accept` does. Fills `fds` and returns how many; 0 if none
   * waits. It skips connections that ended while they waited. It returns an error (-EMFILE, …) only if it has accepted none; otherwise the next
   * call meets the error again. If `addresses` is not null (`most` * ADDRESS bytes), it receives the clients' addresses. At i * ADDRESS is the
   * length of the i-th address, 0 if there is none (AF_UNIX), then the address in ASCII as `inetName` gives it.
   */
  acceptMany(fd: number, fds: Int32Array, most: number, addresses: Uint8Array | null): number
  /**
   * Lets no more connections into the queue of the listener. Connections in the queue, and clients that have got a SYN-ACK, can still be
   * accepted. It affects all processes that share the socket, and can't be undone. TCP: a socket filter drops each SYN (Linux 2.2). Unix:
   * shutdown(2), so that accept(2) fails with EINVAL when the queue is empty.
   */
  closeQueue(fd: number): number
  diagnosis(): number // a netlink socket for questions to sock_diag(7), non-blocking
  /** TCP handshakes to the listener's port that are under way; Unix: 0. -errno: the kernel does not say (sock_diag(7)). */
  handshakes(fd: number): number
  /** Connections in a listener's queue. -EAGAIN: `acceptMany` would give some, but the kernel does not say how many wait. */
  queued(fd: number): number
  /**
   * Milliseconds since the last byte of a TCP connection was sent or has arrived, or since its handshake if there was none. The kernel counts in
   * ticks, of at most 10 ms. -EOPNOTSUPP: it is no TCP socket.
   */
  quiet(fd: number): number
  connect(fd: number, name: Uint8Array): number
  /**
   * TCP ('listens' with backlog) or UDP; `host` is numeric. `flags`: 1 IPv6 only, 2 SO_REUSEPORT, 4 SO_REUSEPORT once it listens alone:
   * -EADDRINUSE if anybody listens there, with SO_REUSEPORT or without (TCP only). Returns the descriptor.
   */
  bindInet(udp: boolean, host: string, port: number, backlog: number, flags: number): number
  sharePort(fd: number): number // SO_REUSEPORT for a socket that is bound already (socket(7))

  pidfd(pid: number): number // pidfd_open(2)
  peerPidfd(fd: number): number // SO_PEERPIDFD, Linux >= 6.5; -ENOPROTOOPT before
  memfd(name: string, size: number): number // sealable, not executable

  // Facts and settings
  kind(fd: number): number // index into KINDS of descriptor.ts
  isPipe(fd: number): number // 1: of pipe(2); 0: something else, also a FIFO of a file system
  peer(fd: number, out: Int32Array): number // pid, uid, gid, n, n groups; returns n (-ERANGE: out is too short)
  passRights(fd: number, on: boolean): number // SO_PASSRIGHTS, Linux >= 6.16; -ENOPROTOOPT before
  sendBuffer(fd: number, bytes: number): number // raises SO_SNDBUF (socket(7)): to net.core.wmem_max at most, then doubled
  shutdown(fd: number, how: number): number // 0 read, 1 write, 2 both
  resize(fd: number, columns: number, rows: number): number // TIOCSWINSZ
  terminalSide(fd: number): number // 1: a pseudoterminal's master; 0: a terminal; -ENOTTY
  statusFlags(fd: number): number // F_GETFL: O_ACCMODE, O_NONBLOCK, … (open(2))
  nonblocking(fd: number, on: boolean): number // O_NONBLOCK, for all holders of the open file
  /**
   * A non-blocking open file description of our own of the same pipe or terminal; 0: `readNow` and `writeNow` never wait on this one.
   * -EACCES, -ENXIO: this process can't open it. Not for a pseudoterminal's master: it would open another one.
   */
  reopen(fd: number): number
  passCredentials(fd: number, on: boolean): number // SO_PASSCRED, unix(7)
  passPidfd(fd: number, on: boolean): number // SO_PASSPIDFD, Linux >= 6.5; -ENOPROTOOPT before
  name(fd: number, peer: boolean, out: Uint8Array): number // sun_path of an AF_UNIX socket or of its peer; returns its length
  /**
   * Gives the address of an IPv4 or IPv6 socket, or of its peer: 4 or 6 in `out[0]`, the port in `out[1]`, and in `text` (ADDRESS bytes are
   * enough) the IP as Node writes it. Returns the text's length. It gives IPv4 in IPv6 form (::ffff:127.0.0.1) as IPv4. -EAFNOSUPPORT: another
   * kind of socket; -ENOTCONN: no peer; -ERANGE: too little room.
   */
  inetName(fd: number, peer: boolean, out: Int32Array, text: Uint8Array): number
  pending(fd: number): number // FIONREAD: bytes to be read; datagrams: of the first one
  nextSize(fd: number): number // bytes of the first datagram, which stays there; -EAGAIN: there is none (`pending` is 0 then)
  lock(fd: number, on: boolean): number // flock(2), never blocks: -EAGAIN if another process has it
  limit(): number // RLIMIT_NOFILE, soft (capped to 2^31 - 1); the usual 1024 if it can't be read

  // Traffic
  /** Bytes [start, end) and `count` descriptors in one `sendmsg`. Bytes accepted, or -errno and then no descriptor left. */
  send(
    fd: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    fds: Int32Array,
    fdStart: number,
    count: number
  ): number
  /** As `send`, from up to 64 buffers, without the first `skip` bytes of the first one. */
  sendVector(
    fd: number,
    chunks: readonly Uint8Array[],
    skip: number,
    fds: Int32Array,
    fdStart: number,
    count: number
  ): number
  /** Reads now, as a wake-up of watcher `id` would: fills `results`, returns `results[0]`; does not call `dispatch`. */
  receive(id: number): number

  /**
   * Reads a raw stream. The descriptors that `results` lists came with the byte at MESSAGE_PLACE: exactly that one if less than
   * PLACED bytes stand before it, else that or a later one of this read. SO_PASSCRED must be off.
   */
  receivePlaced(fd: number, bytes: Uint8Array, start: number, end: number, results: Int32Array): number
  /**
   * Receives one datagram or packet, with the sender's address in `name` (at least 108 bytes). `results[RESULT_BYTES]` is its whole size, also if
   * it was cut. A pidfd that is not wanted is closed.
   */
  receiveMessage(
    fd: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    results: Int32Array,
    name: Uint8Array,
    wantsPidfd: boolean
  ): number
  /** One datagram or packet, to `name` or, if that is null, to the connected peer. It may be empty and carry descriptors. */
  sendMessage(
    fd: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    fds: Int32Array,
    fdStart: number,
    count: number,
    name: Uint8Array | null
  ): number
  /**
   * What waits to be read, which stays there: so do the descriptors that came with it, none is installed (trap: MSG_PEEK, recv(2), makes
   * new ones at each call if there is room for them). 0: the end; -EAGAIN: nothing yet; -EINVAL: no room given.
   */
  peek(fd: number, bytes: Uint8Array, start: number, end: number): number
  /** For pipes and terminals: never blocks, with or without O_NONBLOCK, and returns -EAGAIN instead. */
  readNow(fd: number, bytes: Uint8Array, start: number, end: number): number
  /** The same; -EOPNOTSUPP if O_NONBLOCK must be set first. It may take less than it was given. */
  writeNow(fd: number, bytes: Uint8Array, start: number, end: number): number

  // Waiting for many sockets together without reading them, for `peek`
  /**
   * A descriptor to be watched (`watch(set, false)`) that is readable while there is news of a socket in it: more bytes than before, the
   * end, an error. That bytes are still there is no news (EPOLLET, epoll(7)), but those that are there at `edgeAdd` are.
   */
  edgeSet(): number
  edgeAdd(set: number, fd: number): number // -EEXIST: is in it
  /**
   * Adds `fd` for its end only: that the other end has hung up (EPOLLHUP), and errors (EPOLLERR), but neither bytes nor a half-closed connection.
   * Reports an end that was there before. -EPERM: never reports one (a file); -EEXIST: is in it.
   */
  edgeAddEnd(set: number, fd: number): number
  /**
   * Removes `fd` from the set. Call it before `fd` is closed or released, because a copy in another process could report under that number.
   * -ENOENT: isn't in it.
   */
  edgeRemove(set: number, fd: number): number
  /**
   * The sockets that there is news of, as the complement (~fd) if the peer sends no more; returns how many. If there are more than `fds`
   * holds, the set stays readable.
   */
  edgeReady(set: number, fds: Int32Array): number

  // Processes
  /**
   * Ends this process by SIGALRM, `seconds` (>= 1) after the end of its parent, even if its event loop hangs. `parent` is the parent's pid as this
   * process knows it. Returns 1 if that process has ended already, and the time runs; otherwise 0. It uses the highest real-time signal without a
   * handler (PR_SET_PDEATHSIG, prctl(2)), and then alarm(2) with SIGALRM's default action. Children inherit neither. The kernel forgets the
   * setting when this process changes its user or group (setuid(2)), so call it after that. The end of a single thread of the parent changes
   * nothing. -EINVAL: also in a worker thread, because its end would cancel the setting. -EBUSY: no free signal.
   */
  dieAfterParent(seconds: number, parent: number): number
  /**
   * Sends a signal (pidfd_send_signal(2), Linux 5.1) to the process of a pidfd, never to another one that has its number by now; `number` 0
   * only asks. -ESRCH: the process was collected.
   */
  signal(pidfd: number, number: number): number
  /** 1: orphans become this process's children (it is PID 1 of its namespace, or PR_SET_CHILD_SUBREAPER, prctl(2)), and this is its main thread. */
  isReaper(): number
  /** The pid of a child, forked by this thread or re-parented to it, that has ended. It is not collected (WNOWAIT, waitid(2)). 0: there is none. */
  endedChild(): number
  /** Reaps that child. Returns its pid; 0: it has not ended, or other code has reaped it. */
  collect(pid: number): number

  // Memory
  setMode(fd: number, mode: number): number // fchmod(2), which Node's permission model forbids
  seals(fd: number): number // F_GET_SEALS, fcntl(2); -EINVAL: it has none
  seal(fd: number, seals: number): number // F_ADD_SEALS
  /**
   * Maps [0, size) and puts the ArrayBuffer into `holder[0]`; the mapping does not need `fd` afterwards. -EPERM: not sealed against shrinking;
   * -ENODEV: not plain memory; -ERANGE: smaller than `size`; -EFBIG: more than 4 GiB; -ENOTSUP: this runtime has no such buffers (Electron).
   * `writable`: all processes that map it share the writes (-EACCES, -EPERM if that is forbidden). Otherwise writes stay private.
   */
  map(fd: number, size: number, writable: boolean, holder: ArrayBuffer[]): number
  unmap(buffer: ArrayBuffer): number // detaches it; the memory is unmapped at once or by the collector, if nothing else uses it

  // Readiness, on this environment's loop
  /** Watches `fd`. `reads`: the shim reads when `fd` is readable (channels); otherwise it only reports (listeners). Returns the id (>= 1). */
  watch(fd: number, reads: boolean): number
  interest(id: number, events: number): number
  /** Receives bytes into `buffer` [start, end) first, and further ones into the area; null ends that. */
  target(id: number, buffer: Uint8Array | null, start: number, end: number): number
  /**
   * Lets the C library return the free end of its heap to the kernel again, which `target` prevents when it is given 16 KiB or more.
   */
  releaseHeap(): number
  /**
   * For this many µs the loop polls for events and doesn't sleep. Of up to four watchers it reads what arrives without a wake-up. It does not keep
   * the process running.
   */
  spin(id: number, microseconds: number): number
  /**
   * The longest turn of the loop since the last call, in µs, the present one included: so late its events were. The first call begins to measure, and
   * returns 0. -ENOTSUP: this loop does not measure its sleep.
   */
  longestTurn(): number
  unwatch(id: number): number // leaves the loop at once (before any close: epoll(7)); the descriptor stays open
  ref(id: number): void
  unref(id: number): void
}

const loaded = load()

/** False: every function of `native` throws ERR_PASSFD_RUNTIME or ERR_PASSFD_PLATFORM, so that the package can still be imported. */
export const available: boolean = 'binding' in loaded

/** The name of a system that the shim is not made for, such as 'macOS', where a program is developed that runs on Linux. Undefined: Linux. */
export const foreignSystem: string | undefined = 'system' in loaded ? loaded.system : undefined

// Loaded now, not at the first call, so that a call costs no check
export const native: Native = 'binding' in loaded ? (loaded.binding as Native) : refusing()

/** Throws the error for a first use, unless the shim is available: before something is done that can't be undone, as a file is truncated. */
export function checkUsable(): void {
  if (!available) refuse()
}

/** Throws the error for a first use. Only where the shim is not `available`. */
export function refuse(): never {
  const { error } = loaded as { error: PassfdError }
  Error.captureStackTrace?.(error, refuse)
  throw error
}

function refusing(): Native {
  return new Proxy({} as Native, { get: () => refuse })
}
