/** A takeover of state alone, between two processes that a third one has connected: an old worker and its replacement. */
import { deferred } from '../base/deferred.ts'
import { asError } from '../base/errors.ts'
import type { Channel } from '../channel/channel.ts'
import { connect } from '../channel/connect.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { type Asked, type Told, thisProgram } from './messages.ts'
import { type FreezeContext, Owner } from './owner.ts'
import { Life } from './pipes.ts'
import { closeState, GivenState, LockedState } from './state.ts'
import { applyAt } from './succession.ts'

const authorize = (): boolean => true // the supervisor has made both ends

export interface Giver {
  freeze(context: FreezeContext): unknown
  thaw?: ((state: any) => unknown) | undefined
}

/**
 * Gives the state to the process at the other end of a socketpair, of which `end` is moved in. Resolves to whether that has it. If not, the state
 * was thawed, or never frozen. `timeout`, in ms: for all of it. Never rejects.
 */
export async function giveState(end: Descriptor, giver: Giver, timeout: number): Promise<boolean> {
  const outcome = deferred()
  let given: GivenState | undefined
  let taken = false
  const life = new Life()
  const thaw = async (state: unknown): Promise<void> => {
    try {
      await giver.thaw?.(state)
    } catch (error) {
      closeState(state)
      process.emitWarning(asError(error))
    }
  }
  let channel: Channel<unknown, Told>
  try {
    channel = await connect<unknown, Told>(end, { authorize, handshakeTimeout: timeout, requestTimeout: 0 })
  } catch {
    life.end()
    return false
  }
  const timer = setTimeout(() => channel.destroy(), timeout)
  const limits = { attemptTimeout: timeout, freezeTimeout: timeout, busy: 'refuse' } as const
  Owner.at(
    channel,
    {
      path: undefined,
      program: thisProgram(),
      generation: 1,
      limits,
      authorize,
      chain: () => [],
      hooks: {
        offer: () => [],
        drops: () => {},
        freeze: async context => {
          const state = await giver.freeze(context)
          try {
            if (context.signal.aborted) throw new Error('freeze() has taken too long')
            given = new GivenState(state)
            return given.parts
          } catch (error) {
            await thaw(state)
            throw error
          }
        },
        rollBack: () => {
          const { value } = given ?? {}
          void (given === undefined ? undefined : thaw(value))
          given = undefined
          outcome.resolve()
        },
        letGo: (_, successor) => {
          taken = true
          given?.close()
          void successor.end()
          outcome.resolve()
        },
        report: () => {}
      }
    },
    life
  )
  void channel.closed.then(() => setImmediate(outcome.resolve)) // it may have ended before anything began
  await outcome.promise
  clearTimeout(timer)
  life.end()
  void channel.close()
  return taken
}

/**
 * Takes the state of the process at the other end of a socketpair, of which `end` is moved in. Resolves to it, which is the caller's; to undefined
 * if that keeps it. `timeout`, in ms: for all of it. Never rejects.
 */
export async function takeState(
  end: Descriptor,
  accepts: unknown,
  timeout: number
): Promise<{ state: unknown } | undefined> {
  let locked: LockedState | undefined
  try {
    const channel = await connect<unknown, Asked>(end, { authorize, handshakeTimeout: timeout, requestTimeout: 0 })
    const succession = await applyAt(channel, {
      path: '',
      program: thisProgram(),
      wants: [],
      limits: { turnTimeout: timeout, inheritTimeout: timeout, graceTimeout: timeout },
      authorize,
      signal: undefined
    })
    try {
      const parts = await succession.inherit(accepts)
      if (parts === undefined) {
        succession.giveUp()
        return undefined
      }
      locked = new LockedState(parts)
      succession.commit(() => {})
    } catch (error) {
      succession.giveUp()
      throw error
    }
    locked.unlock()
    void channel.close()
    return { state: locked.value }
  } catch {
    locked?.close()
    return undefined
  }
}
