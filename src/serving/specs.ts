/** The listeners' specs of a supervisor, a seat or a standalone worker. */
import { checkOwnCopy, invalid } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import { activated } from '../descriptor/activated.ts'
import { type BindSpec, Descriptor } from '../descriptor/descriptor.ts'
import { noneAs } from '../os/activation.ts'
import { type CheckedSpec, checkedName, readActivatedSpec } from '../os/bind-spec.ts'

/** A checked spec of a listener: an existing socket, or the address to bind. */
export type ListenerSpec = Descriptor | CheckedSpec

/** The most listeners, because each worker gets all of them in one message. */
export const MAX_LISTENERS = 64

/**
 * Reads the specs of all listeners, once for the whole program. Names are those that LISTEN_FDNAMES (sd_listen_fds(3)) can tell. `option` is
 * what the user calls them. Throws ERR_PASSFD_INVALID_ARGUMENT, or what became of a Descriptor that is not open; no Descriptor is moved.
 * `{ activated }` becomes the Descriptor from the service manager, if there is one: it throws ERR_PASSFD_ACTIVATED_….
 */
export function readListeners(listeners: unknown, option: string, least = 1): Map<string, ListenerSpec> {
  if (typeof listeners !== 'object' || listeners === null) throw invalid(option, 'an object', listeners)
  const all = Object.entries(listeners as Record<string, BindSpec>)
  if (all.length < least || all.length > MAX_LISTENERS)
    throw new PassfdError('INVALID_ARGUMENT', {
      what: option,
      expected: `an object with ${least} to ${MAX_LISTENERS} listeners by name`,
      actual: `one with ${all.length}`
    })
  const specs = new Map<string, ListenerSpec>()
  /** Of sockets from a service manager. */
  const names = new Map<string, string>()
  for (const [name, spec] of all) {
    checkedName(name, 'the name of a listener')
    checkOwnCopy(spec, `${option}.${name}`, 'a Descriptor of this copy of passfd')
    if (spec instanceof Descriptor && spec.closed) void spec.kind // throws what became of it
    if (spec instanceof Descriptor) specs.set(name, spec)
    else {
      const { activated, address } = readActivatedSpec(spec, `${option}.${name}`)
      if (address !== undefined) specs.set(name, address)
      if (activated !== undefined) names.set(name, activated)
    }
  }
  // Last, because what is wrong with another one throws
  for (const [name, as] of names) {
    const given = activated(as)
    if (given !== undefined) specs.set(name, given)
    else if (!specs.has(name)) throw noneAs(as)
  }
  return specs
}
