/** Decides which peers are let in, at both ends and for every protocol. */

import { whenAborted } from '../base/abort-signals.ts'
import { type AsyncContext, bound } from '../base/async-context.ts'
import { isThenable } from '../base/brand.ts'
import { invalid } from '../base/check.ts'
import { abortError, PassfdError } from '../base/errors.ts'
import { native } from '../os/native.ts'
import { assertOpen, Descriptor, moveOut } from './descriptor.ts'
import type { Kind } from './kind.ts'
import { type Peer, sameUserOrRoot, whyRefused } from './peer.ts'

/** Until the other side is known the kernel refuses descriptors from it (`SO_PASSRIGHTS`, Linux >= 6.16; elsewhere we simply don't read). */
export function holdRights(fd: number): void {
  native.passRights(fd, false)
}

/** The number of a Descriptor that is given as an address. */
export function moveIn(descriptor: Descriptor, kind: Kind, by: string): number {
  checkKind(descriptor, kind, by)
  return moveOut(descriptor, by)
}

/** Checks the kind only, for a caller whose next step may fail before the move. */
export function checkKind(descriptor: Descriptor, kind: Kind, by: string): void {
  if (!(descriptor instanceof Descriptor)) {
    throw invalid('descriptor', 'a Descriptor', descriptor)
  }
  assertOpen(descriptor)
  if (descriptor.kind !== kind)
    throw new PassfdError('DESCRIPTOR_KIND', { operation: by, expected: kind, actual: descriptor.kind })
}

/** Calls `authorize`, and throws unless it lets the peer in. `authorize` runs in `context`, by default in the context of this call. */
export async function authorized(
  peer: Peer,
  options: { authorize?(peer: Peer): boolean | Promise<boolean> },
  timeout: number,
  signal?: AbortSignal,
  context?: AsyncContext
): Promise<void> {
  let verdict: boolean
  try {
    verdict = await abortable(
      options.authorize === undefined ? sameUserOrRoot(peer) : ask(() => options.authorize!(peer), context),
      timeout,
      signal
    )
  } catch (cause) {
    if (signal?.aborted) throw abortError(signal)
    if (cause === TIMED_OUT)
      throw new PassfdError('HANDSHAKE_TIMEOUT', {
        who: 'authorize() did not answer',
        timeout,
        remedy: 'Raise handshakeTimeout if it takes longer.'
      })
    throw new PassfdError('AUTHORIZE_FAILED', {}, { cause })
  }
  if (verdict !== true)
    throw new PassfdError('UNAUTHORIZED', { pid: peer.pid, uid: peer.uid, why: reason(verdict, options.authorize) })
}

/**
 * The reason of a refusal. Only `true` lets a peer in. The reason names the type of another result and never its value, because passfd sends it
 * to the peer.
 */
function reason(verdict: unknown, authorize: unknown): string {
  if (typeof verdict === 'boolean') return whyRefused(authorize)
  const given = verdict === undefined || verdict === null ? String(verdict) : `a value of type ${typeof verdict}`
  return `authorize() gave ${given}, and only true lets a peer in`
}

/** What `authorize` sets by `enterWith` is over with it. */
function ask(
  authorize: () => boolean | Promise<boolean>,
  context: AsyncContext | undefined
): boolean | Promise<boolean> {
  return context === undefined ? bound(authorize)() : context.run(authorize)
}

const TIMED_OUT = Symbol('timed out')

/** The verdict, unless the signal or the time limit (ms; 0: none) comes first. */
function abortable(
  verdict: boolean | Promise<boolean>,
  timeout: number,
  signal?: AbortSignal
): boolean | Promise<boolean> {
  if (!isThenable(verdict)) return verdict
  return new Promise((resolve, reject) => {
    const timer = timeout === 0 ? undefined : setTimeout(() => reject(TIMED_OUT), timeout)
    const forget = whenAborted(signal, () => reject(abortError(signal!)))
    const settled = Promise.resolve(verdict)
    settled.then(resolve, reject)
    const done = (): void => {
      clearTimeout(timer)
      forget()
    }
    settled.then(done, done)
  })
}
