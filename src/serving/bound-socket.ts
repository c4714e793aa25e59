/** One bound socket of the supervisor. */

import { PassfdError } from '../base/errors.ts'
import { Descriptor, own } from '../descriptor/descriptor.ts'
import { type Kind, LISTENERS } from '../descriptor/kind.ts'
import { bindSocket } from '../os/bind.ts'
import { native } from '../os/native.ts'
import { removeOrWarn, type SocketFile } from '../os/socket-name.ts'
import type { ListenerSpec } from './specs.ts'

/** The address of a listener. An abstract name begins with `@`. */
export type ListenAddress = { family: 'IPv4' | 'IPv6'; address: string; port: number } | { path: string }

export interface Bound {
  readonly name: string
  readonly descriptor: Descriptor
  /** This process has bound it, so no other program holds it. */
  readonly own: boolean
  /** The requested backlog. Node sets it again whenever it listens, for all processes that share the listener. */
  readonly backlog: number | undefined
  /** The file of a path, to be removed if it still belongs to this listener. */
  readonly file: SocketFile | undefined
  /**
   * To close a connection of it never waits. It does if one of another user's has left descriptors in a Unix socket that wait when they are
   * closed: a TCP socket with SO_LINGER (socket(7)), for example.
   */
  readonly closesAtOnce: boolean
}

/** The modes of a socket's file by which others may connect. */
const OTHERS = 0o022

const SERVED: readonly Kind[] = [...LISTENERS, 'udp']

const text = Buffer.alloc(256)
const facts = new Int32Array(2)

/** `kinds`: those that a Descriptor may have. Without them: those that a worker can be given. */
export async function bind(name: string, spec: ListenerSpec, kinds: readonly Kind[] = SERVED): Promise<Bound> {
  if (spec instanceof Descriptor) {
    if (!kinds.includes(spec.kind))
      throw new PassfdError('DESCRIPTOR_KIND', {
        operation: `The listener ${name}`,
        expected: kinds.join(', '),
        actual: spec.kind
      })
    const closesAtOnce = spec.kind === 'tcp-listener'
    return {
      name,
      descriptor: Descriptor.adopt(spec.detach()),
      own: false,
      backlog: undefined,
      file: undefined,
      closesAtOnce
    }
  }
  const { fd, file } = await bindSocket(spec, `${name}.`)
  const { backlog } = spec as { backlog?: number }
  const closesAtOnce = !('path' in spec) || isPrivate(spec.mode)
  return { name, descriptor: own(fd), own: true, backlog, file, closesAtOnce }
}

/** Whether no other user may connect to a socket file of this mode. */
export function isPrivate(mode: unknown): boolean {
  return typeof mode === 'number' && (mode & OTHERS) === 0
}

/** Removes the socket's file if it is still the same one, calls `before`, and closes the socket. */
export async function closeBound({ descriptor, file }: Bound, before?: () => Promise<void>): Promise<void> {
  try {
    if (file !== undefined) await removeOrWarn(file) // first, because a client that still finds it gets into a queue that is reset
  } finally {
    await before?.()
    if (!descriptor.closed) descriptor.close()
  }
}

export function addressOf(fd: number): ListenAddress {
  const inet = native.inetName(fd, false, facts, text)
  if (inet >= 0)
    return {
      family: facts[0] === 6 ? 'IPv6' : 'IPv4',
      address: text.toString('latin1', 0, inet),
      port: facts[1]!
    }
  const length = native.name(fd, false, text)
  return { path: length > 0 ? text.toString('utf8', 0, length).replace(/^\0/, '@').replace(/\0$/, '') : '' }
}
