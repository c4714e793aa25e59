/** Pseudoterminals, without a program in them. */
import { createRequire } from 'node:module'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'

interface Openpty {
  open(columns: number, rows: number): { master: number; slave: number; pty: string }
}

const { module: openpty } = createRequire(import.meta.url)('node-pty/lib/utils.js').loadNativeModule('pty') as {
  module: Openpty
}

/** Both sides, blocking, as openpty(3) makes them. */
export function openTerminal(): { master: Descriptor; slave: Descriptor; name: string } {
  const { pty: name, ...made } = openpty.open(80, 24)
  const [master, slave] = [Descriptor.adopt(made.master), Descriptor.adopt(made.slave)]
  for (const side of [master, slave]) native.nonblocking(side.borrow(), false)
  return { master, slave, name }
}
