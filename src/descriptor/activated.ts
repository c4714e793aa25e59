/** The descriptors that a service manager has given this process at its start, until a part of the program owns them. */

import { checkType } from '../base/check.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { noneAs, type Passed, passed, passedAs } from '../os/activation.ts'
import { type ActivatedSpec, splitActivated } from '../os/bind-spec.ts'
import { type Descriptor, moveOut, own } from './descriptor.ts'
import { isServed } from './kind.ts'

/** One of them. The caller owns the Descriptor. */
export interface ActivatedDescriptor {
  /** Of a socket: `FileDescriptorName=` of its unit, by default that unit's name. Of a stored one: the name that it was stored with. */
  readonly name: string
  readonly descriptor: Descriptor
}

export interface ActivationOptions {
  /** Leaves LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES in the environment. Default false: they are removed, so that no child sees them. */
  keepEnvironment?: boolean
}

const OPTIONS = { keepEnvironment: true } as const satisfies KnownOptions<ActivationOptions>

const descriptors = new WeakMap<Passed, Descriptor>()
const names = new WeakMap<Descriptor, string>()

/**
 * Returns the sockets and stored descriptors that systemd, or another manager with its protocol (sd_listen_fds(3)), has given this process, in
 * the manager's order; several may have one name. The caller owns them.
 *
 * It returns each once, and none that `{ activated: name }` has returned. Empty if there are none. Each is close-on-exec.
 * @throws `ERR_PASSFD_ACTIVATION` if the environment names descriptors that are not there, or another thread of this process owns them.
 */
export function activatedSockets(options: ActivationOptions = {}): ActivatedDescriptor[] {
  const { keepEnvironment = false } = readOptions(options, OPTIONS)
  checkType(keepEnvironment, 'keepEnvironment', 'true or false', value => typeof value === 'boolean')
  return passed(keepEnvironment).map(each => ({ name: each.name, descriptor: own(each.take()) }))
}

/**
 * @internal Returns the Descriptor of this name, which stays here until it is moved: another call returns it again. Otherwise as `passedAs()`.
 */
export function activated(name: string): Descriptor | undefined {
  const entry = passedAs(name, isServed)
  if (entry === undefined) return undefined
  let descriptor = descriptors.get(entry)
  if (descriptor === undefined) {
    const made = own(entry.fd)
    descriptor = made
    descriptors.set(entry, made)
    names.set(made, name)
    Object.assign(entry, { isGone: () => made.closed, take: () => moveOut(made, 'activatedSockets()') })
  }
  return descriptor
}

/**
 * @internal Returns the socket that an address with `activated` means, or else the rest of that address. Throws ERR_PASSFD_ACTIVATED_…,
 * ERR_PASSFD_INVALID_ARGUMENT.
 */
export function activatedOr<Address>(address: Address): Exclude<Address, ActivatedSpec> | Descriptor {
  const { activated: name, rest } = splitActivated(address, 'address.')
  const found = name === undefined ? undefined : activated(name)
  if (found !== undefined) return found
  if (name !== undefined && rest === undefined) throw noneAs(name)
  return rest as Exclude<Address, ActivatedSpec>
}

/** @internal Returns the name under which the service manager has given a socket; undefined if it has not. */
export function activatedAs(descriptor: Descriptor): string | undefined {
  return names.get(descriptor)
}
