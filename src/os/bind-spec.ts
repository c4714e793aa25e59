/** Where to bind: a spec as users give it, and its one check. */
import { checkInteger, checkPathText, invalid } from '../base/check.ts'
import { checkOptions, type KnownOptions, readOptions } from '../base/known-options.ts'

/** A TCP port. Without a `host` it is every address, of both families if there is IPv6. `backlog`: default 511. */
export interface PortSpec {
  port: number
  host?: string
  backlog?: number
  ipv6Only?: boolean
}

/** The socket that the service manager has given under this name (passfd/systemd). */
export interface ActivatedSpec {
  activated: string
}

interface PathSpec {
  path: string
  mode?: number
  owner?: number | string
  group?: number | string
  backlog?: number
}

interface DatagramSpec {
  type: 'udp4' | 'udp6'
  port: number
  address?: string
}

/** With `activated` it is what to bind if the program was started by hand, without any socket from a service manager. */
type Fallback = (PortSpec | PathSpec | DatagramSpec) & Partial<ActivatedSpec>

/** Where to bind. Kinds that listen have a `backlog` (default 511). A Descriptor is taken as it is. */
export type BindSpec<D> = Fallback | ActivatedSpec | D

/** An address that `readSpec` has checked, so no other code checks it. */
export type CheckedSpec = PortSpec | (PathSpec & { mode: number }) | DatagramSpec

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
/** The names of sockets of a service manager, and of its stored descriptors: FDNAME_MAX, sd_pid_notify_with_fds(3). */
const NAME = /^[\x20-\x39\x3b-\x7e]{1,255}$/

/** Returns the name of a descriptor as systemd takes it. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function checkedName(name: unknown, what: string): string {
  if (typeof name === 'string' && NAME.test(name)) return name
  throw invalid(what, '1 to 255 printable ASCII characters without a colon', name)
}

/** Takes `activated` out of an address. `rest`: undefined if the address has nothing else. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function splitActivated<Address>(
  given: Address,
  prefix: string
): { activated: string | undefined; rest: Exclude<Address, ActivatedSpec> | undefined } {
  type Rest = Exclude<Address, ActivatedSpec>
  if (typeof given !== 'object' || given === null || !('activated' in given))
    return { activated: undefined, rest: given as Rest }
  const { activated, ...rest } = given
  if (activated === undefined) return { activated, rest: rest as Rest }
  const isAlone = Object.keys(rest).length === 0
  return { activated: checkedName(activated, `${prefix}activated`), rest: isAlone ? undefined : (rest as Rest) }
}

/** Reads what `readSpec` does, with `activated`, which it returns apart. `address`: undefined if there is none but that. Throws as `readSpec()`. */
export function readActivatedSpec(
  given: unknown,
  what: string,
  prefix = `${what}.`
): { activated: string | undefined; address: CheckedSpec | undefined } {
  const { activated, rest } = splitActivated(given, prefix)
  const isAlone = activated !== undefined && rest === undefined
  return { activated, address: isAlone ? undefined : readSpec(rest, what, prefix) }
}

/**
 * Reads a spec as users give it: checks its fields and fills in the mode of a file. `what`: how errors call the spec; `prefix`: what they put
 * before the name of one of its options. Throws ERR_PASSFD_INVALID_ARGUMENT. Hosts and the names of accounts are looked up when it is bound.
 */
export function readSpec(given: unknown, what: string, prefix = `${what}.`): CheckedSpec {
  if (typeof given !== 'object' || given === null)
    throw invalid(what, '{ port }, { path }, { type, port } or a Descriptor', given)
  const spec = readOptions<object>(given, ANY, what)
  checkOptions(spec, 'path' in given ? PATH : 'type' in spec ? DATAGRAM : PORT, what)
  if ('path' in given) return checkedPath({ path: undefined, ...spec }, prefix)
  const { port, type } = spec as Partial<DatagramSpec>
  checkInteger(port, `${prefix}port`, 0, 65535)
  if (type !== undefined && type !== 'udp4' && type !== 'udp6') throw invalid(`${prefix}type`, "'udp4' or 'udp6'", type)
  checkTypes(spec, prefix)
  checkBacklog(spec, prefix)
  return spec as CheckedSpec
}

function checkedPath(spec: { path: unknown; mode?: number; backlog?: number }, prefix: string): CheckedSpec {
  const { path, mode = 0o600 } = spec
  if (typeof path !== 'string' || path === '') throw invalid(`${prefix}path`, 'a path', path)
  checkPathText(path, `${prefix}path`)
  checkInteger(mode, `${prefix}mode`, 0, 0o777)
  checkBacklog(spec, prefix)
  return { ...spec, path, mode }
}

/** `undefined` means not given. */
function checkTypes(spec: { host?: unknown; address?: unknown; ipv6Only?: unknown }, prefix: string): void {
  for (const name of ['host', 'address'] as const)
    if (spec[name] !== undefined && typeof spec[name] !== 'string')
      throw invalid(`${prefix}${name}`, 'a text', spec[name])
  if (spec.ipv6Only !== undefined && typeof spec.ipv6Only !== 'boolean')
    throw invalid(`${prefix}ipv6Only`, 'true or false', spec.ipv6Only)
}

function checkBacklog({ backlog }: Pick<PortSpec, 'backlog'>, prefix: string): void {
  if (backlog !== undefined) checkInteger(backlog, `${prefix}backlog`, 0, 0x7fffffff)
}
