/**
 * The listeners of a program that runs alone where the shim is missing: Node itself binds them, when a server serves them. Such a process is only
 * for development, because nothing outlives it, and its listeners can't be passed on.
 */
import { chmodSync, chownSync, lstatSync, rmSync } from 'node:fs'
import { connect, type ListenOptions, type Server } from 'node:net'
import { printable } from '../base/check.ts'
import { PassfdError } from '../base/errors.ts'
import type { ListenHandle } from '../descriptor/to-node.ts'
import { accessOf, type FileAccess } from '../os/account.ts'
import type { CheckedSpec, PortSpec } from '../os/bind-spec.ts'
import { foreignSystem, refuse } from '../os/native.ts'
import { BACKLOG } from './accept-sources.ts'
import type { DrainOptions, Intake } from './intake.ts'
import type { WorkerListeners } from './served-listeners.ts'
import { ServerIntake } from './server-intake.ts'
import type { ListenerSpec } from './specs.ts'

/** chown(2) leaves it unchanged. */
const KEEP = -1
/** Of sun_path on macOS and the BSDs, without the zero at its end. */
const MAX_PATH = 103

export class PlainListeners implements WorkerListeners {
  /** No Descriptor is among them, because none can be made here. */
  readonly #specs: ReadonlyMap<string, CheckedSpec>
  readonly #intakes = new Map<Server, ServerIntake>()
  readonly #served = new Set<string>()

  constructor(specs: ReadonlyMap<string, ListenerSpec>) {
    this.#specs = specs as ReadonlyMap<string, CheckedSpec>
  }

  get intakes(): Intake[] {
    return [...this.#intakes.values()]
  }

  get requests(): number {
    return this.intakes.reduce((sum, served) => sum + served.requests, 0)
  }

  async serve(name: string, server: Server): Promise<void> {
    const spec = this.#get(name)
    if (this.#served.has(name)) throw new PassfdError('LISTENER_SERVED', { name })
    if ('type' in spec)
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation: 'listen()',
        expected: 'a listener',
        actual: 'udp (on Linux use descriptor(name).toDatagram())'
      })
    const intake = this.#intakes.get(server) ?? new ServerIntake(server)
    this.#intakes.set(server, intake)
    this.#served.add(name)
    try {
      // Looked up before it listens. Windows has pipes in the place of paths, whose names are no files
      const access = 'path' in spec && process.platform !== 'win32' ? accessOf(spec, spec.mode, `${name}.`) : undefined
      if ('path' in spec) checkLength(spec.path)
      await removeDead(spec)
      await intake.listenItself(optionsOf(spec))
      if (access !== undefined) setAccess((spec as { path: string }).path, access)
    } catch (error) {
      this.#served.delete(name) // for another try
      throw error
    }
  }

  /** Rejects with ERR_PASSFD_PLATFORM. */
  async receive(name: string): Promise<void> {
    this.expose(name)
  }

  /** @throws ERR_PASSFD_PLATFORM */
  expose(name: string): never {
    this.#get(name)
    return refuse()
  }

  /** What `listen()` of any server takes, too: the address. */
  handle(name: string): ListenHandle {
    return { ...optionsOf(this.#get(name)), exclusive: true } as unknown as ListenHandle
  }

  becomeOrphan(): void {}

  suspend(): void {}

  beginStop(): void {}

  cutOff(): void {}

  async end(): Promise<void> {
    await Promise.all(this.intakes.map(served => served.stopAccepting({ last: false })))
  }

  drain(options: Omit<DrainOptions, 'pass'>): Promise<void>[] {
    return this.intakes.map(served => served.drain(options))
  }

  #get(name: string): CheckedSpec {
    const spec = this.#specs.get(name)
    if (spec === undefined)
      throw new PassfdError('LISTENER_UNKNOWN', { name, names: [...this.#specs.keys()].join(', ') })
    return spec
  }
}

function optionsOf(spec: CheckedSpec): ListenOptions {
  const { backlog = BACKLOG } = spec as { backlog?: number }
  if ('path' in spec) return { path: spec.path, backlog }
  const { port, host, ipv6Only } = spec as PortSpec
  return { port, backlog, ...(host === undefined ? {} : { host }), ...(ipv6Only === undefined ? {} : { ipv6Only }) }
}

/** Node would cut a longer path off, and listen at what is left. Windows has pipes, whose names may be longer. */
function checkLength(path: string): void {
  if (process.platform === 'win32' || Buffer.byteLength(path) <= MAX_PATH) return
  const detail = `${foreignSystem} allows ${MAX_PATH} bytes`
  throw new PassfdError('ADDRESS_TOO_LONG', { address: printable(path), detail, part: 'path' })
}

/** Node takes the file of a socket that a killed process has left behind for one in use. */
async function removeDead(spec: CheckedSpec): Promise<void> {
  if (!('path' in spec)) return
  const { path } = spec
  const file = lstatSync(path, { throwIfNoEntry: false })
  if (file === undefined) return
  if (!file.isSocket()) throw new PassfdError('ADDRESS_IN_USE_BY_FILE', { address: path })
  const refused = await new Promise<boolean>(resolve => {
    const probe = connect(path)
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'))
    probe.once('connect', () => {
      probe.destroy()
      resolve(false)
    })
  })
  if (refused) rmSync(path, { force: true })
}

/** Sets what the file of a new socket is to have. If that fails nobody finds the socket any more: its file would have other rights. */
function setAccess(path: string, { mode, owner, group }: FileAccess): void {
  try {
    if (owner !== undefined || group !== undefined) chownSync(path, owner ?? KEEP, group ?? KEEP)
    chmodSync(path, mode)
  } catch (error) {
    rmSync(path, { force: true })
    throw error
  }
}
