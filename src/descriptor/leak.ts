/** Closes a Descriptor that is collected while open, and emits one process warning. */
import { setImmediate } from 'node:timers'
import { discard } from '../os/loop.ts'

/** With `PASSFD_TRACE=1` in the environment the warning names the place where the Descriptor was made or claimed. */
const tracing = process.env.PASSFD_TRACE === '1'

interface Watched {
  fd: number
  what: string
  origin: string | undefined
}

let warned = false

const registry = new FinalizationRegistry<Watched>(({ fd, what, origin }) => {
  discard([fd])
  if (warned && origin === undefined) return
  warned = true
  process.emitWarning(
    what === 'Descriptor'
      ? 'A Descriptor was collected while still open; passfd has closed it. Close it, send it or convert it.'
      : `An ${what} was collected while still open; passfd has closed it. Close it.`,
    {
      type: 'PassfdWarning',
      code: 'PASSFD_LEAK',
      detail: origin ?? 'Run with PASSFD_TRACE=1 to see where it came from.'
    }
  )
})

/** @internal */
export const SETTLE: unique symbol = Symbol('settle')

/** Something that may outlive the turn in which it was made. */
interface Fresh {
  /** The turn is over: it registers itself if it is still open. */
  [SETTLE](): void
}

let fresh: Fresh[] = []

/** Most Descriptors are sent or closed in the turn that made them, so registering, the costly part, waits for its end. */
export function settleLater(descriptor: Fresh): void {
  if (tracing) descriptor[SETTLE]()
  else if (fresh.push(descriptor) === 1) setImmediate(settleFresh)
}

/** Closes `fd` when `owner` is collected; the warning calls it `what`. */
export function register(owner: object, fd: number, what = 'Descriptor'): void {
  registry.register(owner, { fd, what, origin: tracing ? new Error('made or claimed here').stack : undefined }, owner)
}

export function unregister(owner: object): void {
  registry.unregister(owner)
}

function settleFresh(): void {
  const made = fresh
  fresh = []
  for (const descriptor of made) descriptor[SETTLE]()
}
