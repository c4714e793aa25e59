/** Opens a listener with the policy of the option `balance`. */
import { Descriptor } from '../../descriptor/descriptor.ts'
import { LISTENERS } from '../../descriptor/kind.ts'
import type { PortSpec } from '../../os/bind-spec.ts'
import { PortGroup } from '../../os/port-group.ts'
import { type Bound, bind, closeBound, isPrivate } from '../../serving/bound-socket.ts'
import type { ListenerSpec } from '../../serving/specs.ts'
import type { ServedSocket } from '../../takeover/served-socket.ts'
import type { Balance } from '../balance.ts'
import { DispatchedListener } from './dispatched-listener.ts'
import type { Listener, ListenerEvents } from './listener.ts'
import { PerWorkerListener } from './per-worker-listener.ts'
import { SharedListener } from './shared-listener.ts'

const BACKLOG = 511

/** Rejects with the system's error (EADDRINUSE, EACCES, …) or ERR_PASSFD_DESCRIPTOR_KIND. Nothing is left open then. `keepsFile`: a successor may have it. */
export async function openListener(
  name: string,
  spec: ListenerSpec,
  balance: Balance,
  events: ListenerEvents,
  keepsFile = false
): Promise<Listener> {
  if (hasLanes(spec, balance)) return new PerWorkerListener(name, await PortGroup.open(spec), spec.backlog)
  const { file, ...rest } = await bind(name, spec)
  const bound: Bound = { ...rest, file: keepsFile ? undefined : file }
  try {
    return withOne(bound, balance, events, [])
  } catch (error) {
    await closeBound(bound)
    throw error
  }
}

/** Makes a listener of a predecessor's sockets, which are moved in. The predecessor had bound them with `options`. */
export function inheritListener(
  { name, lanes, options }: ServedSocket,
  spec: ListenerSpec,
  balance: Balance,
  events: ListenerEvents
): Listener {
  const [first, ...further] = lanes.map(({ listener }) => listener) as [Descriptor, ...Descriptor[]]
  const { own } = lanes[0]!
  const backlog = spec instanceof Descriptor ? lanes[0]!.backlog : (spec as { backlog?: number }).backlog
  // A socket that was bound by hand stays alone on its port, because other programs may hold it
  if (hasLanes(spec, balance) && own) {
    const group = PortGroup.of(first.borrow(), backlog ?? BACKLOG, options.ipv6Only === true)
    return new PerWorkerListener(name, group, backlog, [first, ...further])
  }
  const closesAtOnce = first.kind === 'tcp-listener' || isPrivate(options.mode)
  // The socket file is never removed: the next process that binds the path checks whether a process listens there
  const bound: Bound = { name, descriptor: first, own, backlog, file: undefined, closesAtOnce }
  return withOne(bound, balance, events, further)
}

function hasLanes(spec: ListenerSpec, balance: Balance): spec is PortSpec {
  return balance === 'per-worker' && !(spec instanceof Descriptor) && 'port' in spec && !('type' in spec)
}

/** Dispatches listeners of connections. A datagram socket is always shared: every worker reads from it. */
function withOne(bound: Bound, balance: Balance, events: ListenerEvents, further: readonly Descriptor[]): Listener {
  if (typeof balance === 'string' || !LISTENERS.includes(bound.descriptor.kind))
    return new SharedListener(bound, further)
  return new DispatchedListener(bound, balance, events, further)
}
