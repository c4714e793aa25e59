/** Transports over sockets that are not there. */

import { EAGAIN } from '../../src/base/errno.ts'
import { Transport, type TransportOwner } from '../../src/channel/transport.ts'
import type { Wire } from '../../src/channel/wire.ts'

/** A transport over a socket that answers its writes with `results`; `asked` tells what was wanted of the loop. */
export function overSocket(results: number[]): { transport: Transport; asked: boolean[] } {
  const asked: boolean[] = []
  const nothing = () => {}
  const wire: Wire = {
    area: Buffer.alloc(16),
    headroom: 0,
    send: (_, start, end) => results.shift() ?? end - start,
    sendVector: () => results.shift() ?? EAGAIN,
    awaitWritable: on => asked.push(on),
    spin: () => {},
    target: nothing,
    shutdown: () => 0,
    end: nothing,
    discard: nothing,
    closeHere: () => false,
    start: nothing,
    ref: nothing,
    closing: 0,
    unref: nothing
  }
  const owner = { onProgress: nothing } as unknown as TransportOwner
  return { transport: new Transport(wire, owner), asked }
}
