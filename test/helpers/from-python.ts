/** Descriptors that Node can't make. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { SocketWire } from '../../src/channel/wire.ts'
import { moveOut, own } from '../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../src/index.ts'
import { systemPython } from './programs.ts'

/** Starts a Python process and gives what it sends, by name. */
export async function fromPython(
  names: string[],
  program = 'kinds.py'
): Promise<{ child: ChildProcess; descriptors: Descriptor[]; end(): Promise<void> }> {
  const [ours, theirs] = Descriptor.socketpair()
  const fixture = fileURLToPath(new URL(`../fixtures/${program}`, import.meta.url))
  const child = spawn(systemPython, [fixture, names.join()], { stdio: [theirs.borrow(), 'ignore', 'inherit'] })
  theirs.close()
  const wire = new SocketWire(moveOut(ours, 'the test'))
  const descriptors = await new Promise<Descriptor[]>(resolve =>
    wire.start({
      onReadable(length, fds, first, count) {
        if (length > 0 || count > 0) resolve(Array.from(fds.subarray(first, first + count), own))
      },
      onWritable() {}
    })
  )
  const exit = once(child, 'exit')
  return {
    child,
    descriptors,
    async end() {
      wire.end()
      await exit
    }
  }
}
