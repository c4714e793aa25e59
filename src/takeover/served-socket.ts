/** A listener as one process gives it to the next: its sockets, how they were bound, and whether they match a spec. */
import { resolve } from 'node:path'
import { Descriptor } from '../descriptor/descriptor.ts'
import type { Kind } from '../descriptor/kind.ts'
import { native } from '../os/native.ts'
import { addressOf } from '../serving/bound-socket.ts'
import type { Lane } from '../serving/listener-grant.ts'
import type { ListenerSpec } from '../serving/specs.ts'
import { copying } from './copies.ts'
import type { Offered } from './messages.ts'
import type { Report } from './place.ts'

const BACKLOG = 511
const EVERY_ADDRESS: readonly unknown[] = [undefined, '::', '0.0.0.0']
export const DATAGRAMS: readonly Kind[] = ['udp', 'unix-dgram']

/** The listening socket behind a supervisor's admin path. Names of listeners have no colon. */
export const ADMIN = 'passfd:admin'

/** One listener with its lanes: members of a SO_REUSEPORT group, or the only one. */
export interface ServedSocket {
  readonly name: string
  readonly kind: string
  /** How it was bound: the fields of its spec, `own`, and of a socket file `dev` and `ino`. */
  readonly options: Readonly<Record<string, unknown>>
  readonly lanes: readonly Lane[]
}

/** Returns them by name. The caller still owns the Descriptors. */
export function grouped(offered: readonly Offered[]): Map<string, ServedSocket> {
  const sockets = new Map<string, ServedSocket>()
  for (const { name, lane, kind, options, listener } of offered) {
    const lanes = sockets.get(name)?.lanes ?? []
    const backlog = typeof options.backlog === 'number' ? options.backlog : undefined
    const one: Lane = { name, lane, listener, backlog, own: options.own === true }
    sockets.set(name, { name, kind, options, lanes: [...lanes, one] })
  }
  return sockets
}

/** Returns copies of every lane, which the caller owns. If it throws, it has closed all of them. */
export function copiesOf(sockets: Iterable<ServedSocket>): Offered[] {
  return copying(copy =>
    [...sockets].flatMap(({ name, kind, options, lanes }) =>
      lanes.map(({ lane, listener, backlog }) => ({
        name,
        lane,
        kind,
        options: backlog === undefined ? options : { ...options, backlog },
        listener: copy(listener)
      }))
    )
  )
}

/** From now on peers see this process's credentials, and the backlog is this program's. */
export function listenAgain({ kind, lanes }: Pick<ServedSocket, 'kind' | 'lanes'>): void {
  if (!DATAGRAMS.includes(kind as Kind))
    for (const { listener, backlog = BACKLOG } of lanes) native.listen(listener.borrow(), backlog)
}

/** Whether the socket has the address of the spec. */
export function isSame(spec: ListenerSpec, { options, lanes }: ServedSocket): boolean {
  const { listener } = lanes[0]!
  const actual = addressOf(listener.borrow())
  if (spec instanceof Descriptor) {
    const given = addressOf(spec.borrow())
    const named = 'path' in given ? given.path !== '' : given.port !== 0
    return named && spec.kind === listener.kind && JSON.stringify(given) === JSON.stringify(actual)
  }
  if ('path' in spec) {
    const path = typeof options.path === 'string' ? options.path : 'path' in actual ? actual.path : ''
    return path !== '' && resolve(path) === resolve(spec.path)
  }
  if ('path' in actual) return false
  if ('type' in spec !== (listener.kind === 'udp')) return false
  if ('type' in spec && spec.type !== (actual.family === 'IPv6' ? 'udp6' : 'udp4')) return false
  const host = 'type' in spec ? spec.address : spec.host
  const before = 'type' in spec ? options.address : options.host
  const samePlace =
    host === before || host === actual.address || [host, actual.address].every(one => EVERY_ADDRESS.includes(one))
  return samePlace && (spec.port === 0 || spec.port === actual.port)
}

/** Describes how an inherited socket differs from the spec. `pid`: the predecessor's. */
export function differences(spec: ListenerSpec, { name, options, lanes }: ServedSocket, pid: number): Report[] {
  if (spec instanceof Descriptor || 'type' in spec) return []
  const reports: Report[] = []
  const report = (message: string): void => void reports.push({ code: 'options', message, pid, name })
  const backlog = spec.backlog ?? BACKLOG
  const before = lanes[0]!.backlog ?? BACKLOG
  if (backlog !== before)
    report(`The socket of the listener ${name} has the backlog ${before}; from the commit on it has ${backlog}.`)
  const keeps = (option: string, asked: unknown, actual: unknown): void => {
    if (asked !== actual)
      report(
        `The socket of the listener ${name} keeps ${option} ${actual}; asked was ${asked}. Stop the service and start it to change that.`
      )
  }
  if ('path' in spec) keeps('mode', octal(spec.mode), octal(options.mode ?? spec.mode))
  else {
    keeps('ipv6Only', spec.ipv6Only ?? false, options.ipv6Only ?? false)
    const actual = addressOf(lanes[0]!.listener.borrow()) as { address: string }
    // A host name stands for the address that it resolved to
    if (spec.host !== undefined && spec.host !== options.host) keeps('host', spec.host, actual.address)
  }
  return reports
}

function octal(mode: unknown): string {
  return `0${Number(mode).toString(8)}`
}

/** Describes that the predecessor's listener of that name has another address. */
export function hasMoved(name: string, pid: number): Report {
  return {
    code: 'address',
    message: `The listener ${name} has another address than that of process ${pid}, which closes its own.`,
    pid,
    name
  }
}
