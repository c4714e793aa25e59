/** Addresses of sockets, as the command line and people write them. */
import { readlinkSync } from 'node:fs'
import type { Address, Descriptor } from '../../index.ts'
import { Network } from './network.ts'

/** A path, or `@` and an abstract name. */
export function addressOf(socket: string): Address {
  return socket.startsWith('@') ? { abstract: socket.slice(1) } : { path: socket }
}

/** Where a socket of this process is bound. */
export function addressText(descriptor: Descriptor): string {
  const [, inode] = /\[(\d+)\]/.exec(readlinkSync(`/proc/self/fd/${descriptor.borrow()}`)) ?? []
  const { local, name } = new Network('self').get(Number(inode)) ?? {}
  return local ?? name ?? 'an unknown address'
}
