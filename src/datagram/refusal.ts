/** Whether a datagram is taken: whose it is, and whether it came whole and within the limits. */
import type { AsyncContext } from '../base/async-context.ts'
import { PassfdError } from '../base/errors.ts'
import { sameUserOrRoot, whyRefused } from '../descriptor/peer.ts'
import type { Destination } from './address.ts'
import type { DatagramLimits, DatagramOptions } from './options.ts'
import type { Received } from './receive.ts'
import type { Sender } from './sender.ts'

/** Returns why it is dropped; undefined: it is taken. `peer`: null for a socket that is connected to one without a name. */
export function refusalOf(
  { fds, from, sender, cut, truncated, size }: Received,
  limits: DatagramLimits,
  peer: Destination | null | undefined,
  options: Pick<DatagramOptions, 'authorize'>,
  context: AsyncContext
): PassfdError | undefined {
  try {
    const verdict =
      options.authorize === undefined ? isOurs(sender, peer) : context.run(() => options.authorize!(sender, from))
    if (typeof verdict !== 'boolean') throw new TypeError('authorize() must return true or false at once')
    if (!verdict)
      return sender === undefined
        ? new PassfdError('UNKNOWN_SENDER', { why: whyRefused(options.authorize) })
        : new PassfdError('UNAUTHORIZED', { pid: sender.pid, uid: sender.uid, why: whyRefused(options.authorize) })
  } catch (cause) {
    return new PassfdError('AUTHORIZE_FAILED', {}, { cause })
  }
  if (cut) return new PassfdError('DATAGRAM_CUT', { size, limit: limits.maxMessage })
  if (truncated) return new PassfdError('DESCRIPTORS_TRUNCATED')
  if (fds.length <= limits.maxDescriptors) return undefined
  return new PassfdError('TOO_MANY_DESCRIPTORS', {
    what: 'A datagram was dropped that',
    count: fds.length,
    whose: 'this socket (maxDescriptors)',
    limit: limits.maxDescriptors,
    remedy: 'Raise maxDescriptors if they are welcome'
  })
}

/** The default of `authorize`. On one end of a socketpair(2) it accepts every sender, because only the holders of the other end can send to it. */
function isOurs(sender: Sender | undefined, peer: Destination | null | undefined): boolean {
  return sender === undefined ? peer === null : sameUserOrRoot(sender)
}
