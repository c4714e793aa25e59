/** What a descriptor is open on. */
/** What a descriptor is open on. The order is the shim's. */
export const KINDS = [
  'file',
  'directory',
  'pipe',
  'tty',
  'tcp',
  'tcp-listener',
  'udp',
  'unix-stream',
  'unix-stream-listener',
  'unix-dgram',
  'unix-seqpacket',
  'unix-seqpacket-listener',
  'memfd',
  'eventfd',
  'epoll',
  'pidfd',
  'device',
  'other'
] as const
export type Kind = (typeof KINDS)[number]

export const SOCKETS: readonly Kind[] = ['tcp', 'unix-stream']
export const DUPLEXES: readonly Kind[] = [...SOCKETS, 'pipe', 'tty']
export const LISTENERS: readonly Kind[] = ['tcp-listener', 'unix-stream-listener']
/** What a socket unit of systemd opens, and clients wait at. */
const SERVED: readonly Kind[] = [...LISTENERS, 'unix-seqpacket-listener', 'udp', 'unix-dgram']
export const FILES: readonly Kind[] = ['file', 'memfd', 'device']
export const STREAMS: readonly Kind[] = [...FILES, ...DUPLEXES]

/** Of a kind as the shim gives it: whether clients may wait there, if a service manager has given it. */
export function isServed(kind: number): boolean {
  return SERVED.includes(KINDS[kind] ?? 'other')
}
