/** Ends a listener without a reset: accepts all connections that the kernel has accepted, and lets no more in. Otherwise close(2) resets them. */
import { setTimeout as later, setImmediate as turn } from 'node:timers/promises'
import { acceptWaiting } from '../os/acceptor.ts'
import { ADDRESS, native } from '../os/native.ts'

const READ = 0
/** How long it waits for handshakes under way, or at the limit of open files, in ms. */
const LONGEST = 500
/** After so many ms the kernel has handled every segment that arrived before the filter. */
const PAUSE = 2

/**
 * Ends listeners that no other program holds. It closes their queues, calls `accept` to empty them (`accept` returns false if some connections
 * are left), and shuts them down, for all processes that share them. From then on the kernel refuses clients. The caller still owns the numbers,
 * and closes them. A TCP client whose SYN was dropped meanwhile tries again a second later, and is refused.
 */
export async function endListeners(fds: readonly number[], accept: (fd: number) => boolean): Promise<void> {
  const open = fds.filter(fd => native.closeQueue(fd) === 0)
  const acceptAll = (): boolean => open.map(accept).every(Boolean)
  let empty = acceptAll()
  const ports = onePerPort(open)
  const deadline = performance.now() + LONGEST
  for (let pending = ports.length > 0 || !empty; pending && performance.now() < deadline; ) {
    await later(PAUSE)
    pending = ports.some(fd => native.handshakes(fd) > 0)
    empty = acceptAll()
    pending ||= !empty
  }
  // The kernel stops counting a handshake a moment before the connection is in the queue
  await turn()
  if (acceptAll()) for (const fd of open) native.shutdown(fd, READ)
}

/**
 * Ends listeners as `endListeners` does, for a supervisor whose workers hold copies and will be told to stop. `give` gets the waiting
 * connections. Not `served`: no worker can take connections. Then it only closes the queues of TCP listeners, for programs that empty them
 * before they end.
 */
export async function endOwn(
  fds: readonly number[],
  served: boolean,
  give: (connections: readonly number[]) => void
): Promise<void> {
  if (served) {
    await endListeners(fds, fd => {
      const waiting: number[] = []
      const empty = acceptWaiting(fd, connection => void waiting.push(connection))
      if (waiting.length > 0) give(waiting)
      return empty
    })
  } else for (const fd of fds) if (portOf(fd) !== undefined) native.closeQueue(fd)
}

/** Returns one TCP listener of each port, because the kernel counts handshakes by port. */
function onePerPort(fds: readonly number[]): number[] {
  const byPort = new Map<number, number>()
  for (const fd of fds) {
    const port = portOf(fd)
    if (port !== undefined) byPort.set(port, fd)
  }
  return [...byPort.values()]
}

/** Returns the port; undefined for a Unix socket. */
function portOf(fd: number): number | undefined {
  const facts = new Int32Array(2)
  return native.inetName(fd, false, facts, Buffer.alloc(ADDRESS)) < 0 ? undefined : facts[1]!
}
