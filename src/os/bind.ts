/** Sockets that are bound before anybody accepts from them. */

import { lookup } from 'node:dns/promises'
import { checkInteger, checkOwnCopy, describe } from '../base/check.ts'
import { EADDRNOTAVAIL, EAFNOSUPPORT, EMFILE, ENFILE } from '../base/errno.ts'
import { checked, PassfdError } from '../base/errors.ts'
import { checkOptions, type KnownOptions, readOptions } from '../base/known-options.ts'
import { accessOf } from './account.ts'
import { native } from './native.ts'
import { listenOn, socketName } from './socket-name.ts'

/** A TCP port. Without a `host` it is every address, of both families if there is IPv6. `backlog`: default 511. */
export interface PortSpec {
  port: number
  host?: string
  backlog?: number
  ipv6Only?: boolean
}

/** Where to bind. Kinds that listen have a `backlog` (default 511). A Descriptor is taken as it is. */
export type BindSpec<D> =
  | PortSpec
  | { path: string; mode?: number; owner?: number | string; group?: number | string; backlog?: number }
  | { type: 'udp4' | 'udp6'; port: number; address?: string }
  | D

type PathSpec = Extract<BindSpec<never>, { path: string }>
type DatagramSpec = Extract<BindSpec<never>, { type: string }>
type Spec = Exclude<BindSpec<never>, never>

const PORT = { port: true, host: true, backlog: true, ipv6Only: true } as const satisfies KnownOptions<PortSpec>
const PATH = {
  path: true,
  mode: true,
  owner: true,
  group: true,
  backlog: true
} as const satisfies KnownOptions<PathSpec>
const DATAGRAM = { type: true, port: true, address: true } as const satisfies KnownOptions<DatagramSpec>
const ANY = { ...PORT, ...PATH, ...DATAGRAM }

/** Reads a spec as users give it. `what`: how errors call it. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function readSpec(given: unknown, what: string): Spec {
  if (typeof given !== 'object' || given === null)
    throw new PassfdError('INVALID_ARGUMENT', {
      what,
      expected: '{ port }, { path }, { type, port } or a Descriptor',
      actual: describe(given)
    })
  const spec = readOptions<object>(given, ANY, what)
  checkOptions(spec, 'path' in given ? PATH : 'type' in given ? DATAGRAM : PORT, what)
  return ('path' in given ? { path: undefined, ...spec } : spec) as Spec
}

const BACKLOG = 511
const IPV6_ONLY = 1

/** The number of a bound, held socket. */
export async function bindDescriptor(given: Spec): Promise<number> {
  checkOwnCopy(given, 'spec', 'a Descriptor of this copy of passfd')
  const spec = readSpec(given, 'spec')
  if ('path' in spec) {
    const { path, mode = 0o600, backlog = BACKLOG } = spec
    checkInteger(mode, 'mode', 0, 0o777)
    checkInteger(backlog, 'backlog', 0, 0x7fffffff)
    return (await listenOn(socketName({ path }), accessOf(spec, mode), backlog)).fd
  }
  checkInteger(spec.port, 'port', 0, 65535)
  if ('type' in spec) {
    if (spec.type !== 'udp4' && spec.type !== 'udp6')
      throw new PassfdError('INVALID_ARGUMENT', {
        what: 'type',
        expected: "'udp4' or 'udp6'",
        actual: describe(spec.type)
      })
    const family = spec.type === 'udp4' ? 4 : 6
    const host =
      spec.address === undefined ? (family === 4 ? '0.0.0.0' : '::') : (await lookup(spec.address, family)).address
    return bound(native.bindInet(true, host, spec.port, 0, 0), host, spec.port)
  }
  return (await bindPort(spec, 0)).fd
}

/** What is needed to bind another socket to the same place; `host` is numeric. */
export interface BoundPort {
  fd: number
  host: string
  backlog: number
  flags: number
}

/** A held socket that listens; `flags` as of `native.bindInet`, but ipv6Only has its own. */
export async function bindPort(spec: PortSpec, flags: number): Promise<BoundPort> {
  const { port, backlog = BACKLOG, ipv6Only = false } = spec
  checkInteger(port, 'port', 0, 65535)
  checkInteger(backlog, 'backlog', 0, 0x7fffffff)
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
