/** The safety net: a Descriptor that is collected while still open is closed, and a process warning says so once. */
import { native } from './native.ts'

/** With `PASSFD_TRACE=1` in the environment the warning names the place where the Descriptor was made or claimed. */
const tracing = process.env.PASSFD_TRACE === '1'

interface Watched {
  fd: number
  origin: string | undefined
}

let warned = false
const one = new Int32Array(1)

const registry = new FinalizationRegistry<Watched>(({ fd, origin }) => {
  one[0] = fd
  native.closeLater(one, 0, 1, 0)
  if (warned && origin === undefined) return
  warned = true
  process.emitWarning(
    'A Descriptor was collected while still open; passfd has closed it. Close it, send it or convert it.',
    {
      type: 'PassfdWarning',
      code: 'PASSFD_LEAK',
      detail: origin ?? 'Run with PASSFD_TRACE=1 to see where it came from.'
    }
  )
})

/** `fd` >= 0: closes it when `owner` is collected; -1: no longer. */
export function watchForLeak(owner: object, fd: number): void {
  if (fd < 0) registry.unregister(owner)
  else registry.register(owner, { fd, origin: tracing ? new Error('made or claimed here').stack : undefined }, owner)
}
