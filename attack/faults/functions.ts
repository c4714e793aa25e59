/** The functions of libc that the shim calls, in the order of faults.c, and which errors they may report. */
import { constants } from 'node:os'

const { EACCES, EAGAIN, EBADF, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINTR, EINVAL, EIO, EMFILE, ENFILE } =
  constants.errno
const { ENOBUFS, ENODEV, ENOENT, ENOMEM, ENOPROTOOPT, ENOSPC, ENOSYS, ENOTCONN, ENOTTY, ENXIO } = constants.errno
const { EOPNOTSUPP, EPERM, EPIPE, ESRCH } = constants.errno
/** Not among Node's constants. */
const ETOOMANYREFS = 109

/** By function: what its man page lists and the kernel reports in practice, an older one's answers included, without errors that only a wrong argument has. */
export const FUNCTIONS: Record<string, number[]> = {
  accept4: [EAGAIN, EINTR, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM],
  bind: [EACCES, ENOMEM, EINVAL],
  calloc: [ENOMEM],
  close: [EINTR, EIO],
  connect: [EAGAIN, EINTR, ECONNREFUSED, ENOMEM, EACCES],
  epoll_create1: [EMFILE, ENFILE, ENOMEM],
  epoll_ctl: [ENOMEM, ENOSPC, EPERM],
  epoll_wait: [EINTR],
  fchmod: [EPERM, EIO],
  fcntl: [EMFILE, EINVAL, EPERM],
  flock: [EINTR, EAGAIN, ENOMEM],
  fstat: [ENOMEM],
  fstatfs: [ENOMEM, EIO],
  ftruncate: [ENOSPC, EINTR, EIO],
  getpeername: [ENOTCONN, ENOBUFS],
  getrlimit: [EPERM],
  getsockname: [ENOBUFS],
  getsockopt: [ENOMEM, EINVAL, ENOPROTOOPT],
  if_indextoname: [ENXIO],
  if_nametoindex: [ENODEV, EMFILE],
  ioctl: [EIO, EPERM],
  isatty: [ENOTTY, EIO],
  listen: [EACCES, ENOMEM],
  madvise: [ENOMEM, EAGAIN],
  malloc: [ENOMEM],
  memfd_create: [EMFILE, ENOMEM, EINVAL],
  mmap: [ENOMEM, EPERM],
  open: [EMFILE, ENFILE, ENOENT, EACCES, EINTR, ENOMEM],
  pipe2: [EMFILE, ENFILE],
  poll: [EINTR, ENOMEM],
  prctl: [EPERM],
  preadv2: [EAGAIN, EINTR, EIO, EOPNOTSUPP],
  pthread_attr_init: [ENOMEM],
  pthread_create: [EAGAIN],
  pwritev2: [EAGAIN, EINTR, EIO, EPIPE, EOPNOTSUPP],
  read: [EAGAIN, EINTR, EIO],
  readlink: [ENOENT, EACCES, ENOMEM],
  realloc: [ENOMEM],
  recv: [EAGAIN, EINTR, ECONNRESET, ENOMEM],
  recvmsg: [EAGAIN, EINTR, ECONNRESET, ENOMEM, EBADF],
  sbrk: [ENOMEM],
  send: [EAGAIN, EINTR, ECONNRESET, EPIPE, ENOBUFS, ENOMEM],
  sendmsg: [EAGAIN, EINTR, ECONNRESET, EPIPE, ENOBUFS, ENOMEM, EPERM, ETOOMANYREFS],
  setsockopt: [ENOMEM, EPERM, ENOPROTOOPT],
  shutdown: [ENOTCONN],
  socket: [EMFILE, ENFILE, ENOBUFS, EACCES],
  socketpair: [EMFILE, ENFILE],
  statx: [ENOMEM, EACCES],
  syscall: [EPERM, ESRCH, EMFILE, ENOMEM, ENOSYS],
  tcgetattr: [EIO],
  waitid: [EINTR],
  write: [EAGAIN, EINTR, EIO, EPIPE]
}

export const NAMES = Object.keys(FUNCTIONS)
/** Those that may read or write less than they were asked to. */
export const PARTIAL = ['read', 'write', 'recv', 'send', 'recvmsg', 'sendmsg', 'preadv2', 'pwritev2']
/** To how many bytes. */
export const LIMITS = [1, 5, 13, 40]

const NUMBERS = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name] as const)).set(
  ETOOMANYREFS,
  'ETOOMANYREFS'
)

export function nameOf(errno: number): string {
  return NUMBERS.get(errno) ?? `errno ${errno}`
}
