/** A listener under the policy that its supervisor was given. */
import { Descriptor } from '../../descriptor/descriptor.ts'
import { LISTENERS } from '../../descriptor/kind.ts'
import { PortGroup } from '../../os/port-group.ts'
import { bind, closeBound } from '../../serving/bound-socket.ts'
import type { ListenerSpec } from '../../serving/specs.ts'
import type { Balance } from '../balance.ts'
import { DispatchedListener } from './dispatched-listener.ts'
import type { Listener, ListenerEvents } from './listener.ts'
import { PerWorkerListener } from './per-worker-listener.ts'
import { SharedListener } from './shared-listener.ts'

/** Rejects with the system's error (EADDRINUSE, EACCES, …) or ERR_PASSFD_DESCRIPTOR_KIND. Nothing is left open then. */
export async function openListener(
  name: string,
  spec: ListenerSpec,
  balance: Balance,
  events: ListenerEvents
): Promise<Listener> {
  if (balance === 'per-worker' && !(spec instanceof Descriptor) && 'port' in spec && !('type' in spec))
    return new PerWorkerListener(name, await PortGroup.open(spec), spec.backlog)
  const bound = await bind(name, spec)
  // Datagrams are not accepted: every worker reads them from the one socket
  if (typeof balance === 'string' || !LISTENERS.includes(bound.descriptor.kind)) return new SharedListener(bound)
  try {
    return new DispatchedListener(bound, balance, events)
  } catch (error) {
    await closeBound(bound)
    throw error
  }
}
