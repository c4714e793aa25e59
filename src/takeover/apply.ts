/** Makes a process a candidate: it connects to the owner again and again, until the owner makes an offer or no owner is there. */
import { setTimeout as later } from 'node:timers/promises'
import { PassfdError } from '../base/errors.ts'
import type { Channel } from '../channel/channel.ts'
import { connectOwn } from '../channel/connect.ts'
import type { Asked } from './messages.ts'
import { type CandidateSetup, codeOf, type Patience, Succession, WHY } from './succession.ts'

const NOBODY: readonly string[] = ['ENOENT', 'ECONNREFUSED']
/** The codes for a candidate whose owner was replaced, or has ended, before it made an offer. */
const AGAIN: readonly string[] = [
  'ERR_PASSFD_TAKEOVER_MOVED',
  'ERR_PASSFD_DISCONNECTED',
  'ERR_PASSFD_CLOSED',
  'ERR_PASSFD_PEER',
  'ECONNRESET',
  'EPIPE'
]
const REFUSALS: readonly string[] = ['ERR_PASSFD_UNAUTHORIZED', 'ERR_PASSFD_AUTHORIZE_FAILED']

/**
 * Connects to the takeover path and waits for its turn. Resolves to undefined if nobody listens there. Rejects with ERR_PASSFD_TAKEOVER_TIMEOUT,
 * _OVER, _BUSY, _VERSION, ERR_PASSFD_UNAUTHORIZED, ERR_PASSFD_PEER if the owner does not admit this process, or an AbortError. Then it closes all
 * that came.
 */
export async function apply(setup: CandidateSetup): Promise<Succession | undefined> {
  const patience: Patience = { since: performance.now() }
  for (;;) {
    try {
      return await applyOnce(setup, patience)
    } catch (error) {
      if (hasNoOwner(error)) return undefined
      if (!isReplaced(error) || hasNoRoom(error)) throw error
      // An owner that is always too busy has not ended, nor has one that this process, stopped meanwhile, kept waiting
      if (performance.now() - patience.since > setup.limits.turnTimeout) throw outOfTime(error, patience.pid)
      await later(10, undefined, setup.signal === undefined ? {} : { signal: setup.signal })
    }
  }
}

/** Whether nobody listens at the takeover path. */
export function hasNoOwner(error: unknown): boolean {
  return NOBODY.includes((error as { code: string }).code)
}

/** Whether the owner was replaced, or has ended, before it answered. */
export function isReplaced(error: unknown): boolean {
  return AGAIN.includes(codeOf(error)) && !isRefusal(error)
}

/** `pid`: the owner that was reached last, if any was. */
function outOfTime(cause: unknown, pid: number | undefined): unknown {
  return pid === undefined ? cause : new PassfdError('TAKEOVER_OVER', { pid, why: WHY.turn }, { cause })
}

/** Whether the owner has refused this process. */
function isRefusal(error: unknown): boolean {
  const { code, remote } = error as { code?: string; remote?: { code?: string } }
  return code === 'ERR_PASSFD_PEER' && REFUSALS.includes(remote?.code ?? '')
}

/** This process is at its limit of open files: what it was offered did not arrive, and would not again. */
function hasNoRoom(error: unknown): boolean {
  return (error as { cause?: { code?: string } }).cause?.code === 'ERR_PASSFD_DESCRIPTORS_TRUNCATED'
}

async function applyOnce(setup: CandidateSetup, patience: Patience): Promise<Succession> {
  const { path, limits, authorize, signal } = setup
  const channel = await connectOwn<unknown, Asked>(path, {
    handshakeTimeout: limits.turnTimeout,
    requestTimeout: 0,
    ...(authorize === undefined ? {} : { authorize }),
    ...(signal === undefined ? {} : { signal })
  })
  patience.pid = channel.peer.pid
  return applyAt(channel, setup, patience)
}

/** The candidate of the owner at the other end of the channel (see `Owner.at`). Rejects as `apply()`; nothing that came is left open then. */
export async function applyAt(
  channel: Channel<unknown, Asked>,
  setup: CandidateSetup,
  patience: Patience = { since: performance.now() }
): Promise<Succession> {
  let succession: Succession | undefined
  try {
    succession = new Succession(setup, channel, patience)
    await succession.begin()
    return succession
  } catch (error) {
    if (succession === undefined) void channel.close()
    else succession.giveUp()
    throw asRefusal(error, channel.peer.pid)
  }
}

/** Gives an owner's refusal the same code here, so that programs need not read `remote`. */
function asRefusal(error: unknown, pid: number): unknown {
  const { code, remote } = error as PassfdError
  if (code !== 'ERR_PASSFD_REMOTE' || remote === undefined) return error
  const extra = { cause: error, remote }
  if (remote.code === 'ERR_PASSFD_TAKEOVER_BUSY') {
    const { pid: candidate = pid } = (remote.data ?? {}) as { pid?: number }
    return new PassfdError('TAKEOVER_BUSY', { pid: candidate }, extra)
  }
  if (remote.code === 'ERR_PASSFD_TAKEOVER_UNIT') {
    const { unit = '', where = 'has none of its own' } = (remote.data ?? {}) as { unit?: string; where?: string }
    return new PassfdError('TAKEOVER_UNIT', { pid, unit, where }, extra)
  }
  if (remote.code === 'ERR_PASSFD_TAKEOVER_VERSION')
    return new PassfdError('TAKEOVER_VERSION', { pid, detail: `it answers "${remote.message}"` }, extra)
  return error
}
