/** Binds sockets, from which a server accepts later. */

import { lookup } from 'node:dns/promises'
import { EADDRNOTAVAIL, EAFNOSUPPORT, EMFILE, ENFILE } from '../base/errno.ts'
import { checked } from '../base/errors.ts'
import { accessOf } from './account.ts'
import type { CheckedSpec, PortSpec } from './bind-spec.ts'
import { native } from './native.ts'
import { listenOn, type SocketFile, socketName } from './socket-name.ts'

const BACKLOG = 511
const IPV6_ONLY = 1

/**
 * Binds a socket, which listens if its kind does: the number is held, and the caller's to close. `file`: the socket file that it has made.
 * `prefix`: what errors put before `owner` and `group`.
 */
export async function bindSocket(
  spec: CheckedSpec,
  prefix = ''
): Promise<{ fd: number; file: SocketFile | undefined }> {
  if ('path' in spec) {
    const { path, mode, backlog = BACKLOG } = spec
    return listenOn(socketName({ path }), accessOf(spec, mode, prefix), backlog)
  }
  if (!('type' in spec)) return { fd: (await bindPort(spec, 0)).fd, file: undefined }
  const family = spec.type === 'udp4' ? 4 : 6
  const host =
    spec.address === undefined ? (family === 4 ? '0.0.0.0' : '::') : (await lookup(spec.address, family)).address
  return { fd: bound(native.bindInet(true, host, spec.port, 0, 0), host, spec.port), file: undefined }
}

/** The data to bind another socket to the same address; `host` is numeric. */
export interface BoundPort {
  fd: number
  host: string
  backlog: number
  flags: number
}

/** A held socket that listens, by a checked spec; `flags` as of `native.bindInet`, but ipv6Only has its own. */
export async function bindPort(spec: PortSpec, flags: number): Promise<BoundPort> {
  const { port, backlog = BACKLOG, ipv6Only = false } = spec
  const all = ipv6Only ? flags | IPV6_ONLY : flags
  if (spec.host !== undefined) {
    const { address } = await lookup(spec.host)
    return { fd: listenAt(address, port, backlog, all), host: address, backlog, flags: all }
  }
  const any = native.bindInet(false, '::', port, backlog, all)
  if (any !== EAFNOSUPPORT && any !== EADDRNOTAVAIL)
    return { fd: bound(any, '::', port), host: '::', backlog, flags: all }
  return { fd: listenAt('0.0.0.0', port, backlog, flags), host: '0.0.0.0', backlog, flags }
}

/** A held socket that listens at a numeric host. */
export function listenAt(host: string, port: number, backlog: number, flags: number): number {
  return bound(native.bindInet(false, host, port, backlog, flags), host, port)
}

/** The shim makes several calls: these errors are those of the first one. */
const OF_SOCKET: readonly number[] = [EAFNOSUPPORT, ENFILE, EMFILE]

function bound(result: number, host: string, port: number): number {
  return checked(result, OF_SOCKET.includes(result) ? 'socket' : 'bind', `${host}:${port}`)
}
