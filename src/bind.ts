/** Sockets that are bound before anybody accepts from them. */
import { lookup } from 'node:dns/promises'
import { listenOn, socketName } from './address.ts'
import { checkInteger, describe } from './convert.ts'
import { checked, PassfdError } from './errors.ts'
import { native } from './native.ts'

/** Where to bind. Kinds that listen have a `backlog` (default 511). A Descriptor is taken as it is. */
export type BindSpec<D> =
  | { port: number; host?: string; backlog?: number; ipv6Only?: boolean }
  | { path: string; mode?: number; backlog?: number }
  | { type: 'udp4' | 'udp6'; port: number; address?: string }
  | D

const BACKLOG = 511
const IPV6_ONLY = 1
const EAFNOSUPPORT = -97
const EADDRNOTAVAIL = -99

/** The number of a bound, held socket. */
export async function bindDescriptor(spec: Exclude<BindSpec<never>, never>): Promise<number> {
  if (typeof spec !== 'object' || spec === null)
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'spec',
      expected: '{ port }, { path }, { type, port } or a Descriptor',
      actual: describe(spec)
    })
  if ('path' in spec) {
    const { path, mode = 0o600, backlog = BACKLOG } = spec
    checkInteger(mode, 'mode', 0, 0o777)
    checkInteger(backlog, 'backlog', 0, 0x7fffffff)
    return (await listenOn(socketName({ path }), mode, backlog)).fd
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
    return checked(native.bindInet(true, host, spec.port, 0, 0), 'bind', `${host}:${spec.port}`)
  }
  const { port, backlog = BACKLOG, ipv6Only = false } = spec
  checkInteger(backlog, 'backlog', 0, 0x7fffffff)
  const flags = ipv6Only ? IPV6_ONLY : 0
  if (spec.host !== undefined) {
    const { address } = await lookup(spec.host)
    return checked(native.bindInet(false, address, port, backlog, flags), 'bind', `${address}:${port}`)
  }
  const any = native.bindInet(false, '::', port, backlog, flags)
  if (any !== EAFNOSUPPORT && any !== EADDRNOTAVAIL) return checked(any, 'bind', `:::${port}`)
  return checked(native.bindInet(false, '0.0.0.0', port, backlog, 0), 'bind', `0.0.0.0:${port}`)
}
