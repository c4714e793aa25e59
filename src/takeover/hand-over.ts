/** A takeover of state alone, between two processes that a third one has connected: an old worker and its replacement. */
import { deferred, RESOLVED } from '../base/deferred.ts'
import { asError } from '../base/errors.ts'
import type { Channel } from '../channel/channel.ts'
import { connectOwn } from '../channel/connect.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { applyAt } from './apply.ts'
import { type Asked, type StatePart, type Told, thisProgram } from './messages.ts'
import { type FreezeContext, Owner } from './owner.ts'
import { Life } from './pipes.ts'
import { warnOf } from './place.ts'
import { closeState, GivenState, LockedState } from './state.ts'

const authorize = (): boolean => true // the supervisor has made both ends

export interface Taken {
  readonly state: unknown
  /** How many Connections there are in it. */
  readonly connections: number
}

export interface Giver {
  freeze(context: FreezeContext): unknown
  thaw?: ((state: any) => unknown) | undefined
}

/**
 * Gives the state to the process at the other end of a socketpair, of which `end` is moved in. Resolves to true when that process has it, or to
 * false when the program has it back: `thaw` is done, or there was no `freeze`. `timeout`, in ms: for all of it. If the other process has
 * committed and hangs, only its mark or its end decides, which may come later. `late`: the state that a `freeze` returns after the end of the
 * attempt comes back by `thaw`, too; the promise resolves then. Never rejects.
 */
export async function giveState(
  end: Descriptor,
  giver: Giver,
  timeout: number,
  late: (thawed: Promise<unknown>) => void
): Promise<boolean> {
  let life: Life | undefined
  try {
    life = new Life()
    const channel = await connectOwn<unknown, Told>(end, { authorize, handshakeTimeout: timeout, requestTimeout: 0 })
    return await give(channel, giver, { life, timeout, late })
  } catch {
    end[Symbol.dispose]() // there are no descriptors for it, or the other process has none to take the state with
    return false
  } finally {
    life?.end()
  }
}

interface Giving {
  readonly life: Life
  readonly timeout: number
  late(thawed: Promise<unknown>): void
}

async function give(channel: Channel<unknown, Told>, giver: Giver, { life, timeout, late }: Giving): Promise<boolean> {
  const outcome = deferred()
  let freezing: Promise<unknown> | undefined
  let given: GivenState | undefined
  let thawed = RESOLVED
  let taken = false
  const thaw = async (state: unknown): Promise<void> => {
    try {
      await giver.thaw?.(state)
    } catch (error) {
      closeState(state)
      warnOf({ code: 'thaw', message: `thaw() has failed, and the state was closed: ${asError(error).message}` })
    }
  }
  const freeze = async (context: FreezeContext): Promise<readonly StatePart[]> => {
    const state = await giver.freeze(context)
    try {
      if (context.signal.aborted) throw new Error(`freeze() has not returned within ${timeout} ms (handOverTimeout)`)
      given = new GivenState(state)
      return given.parts
    } catch (error) {
      await thaw(state)
      throw error
    }
  }
  const owner = Owner.at(
    channel,
    {
      path: undefined,
      program: thisProgram(),
      generation: 1,
      limits: { attemptTimeout: timeout, freezeTimeout: timeout, busy: 'refuse' },
      authorize,
      chain: () => [],
      hooks: {
        offer: () => [],
        drops: () => {},
        freeze: async context => {
          const parts = freeze(context)
          freezing = parts.catch(error =>
            warnOf({ code: 'failed', message: `The replacement gets no state: ${asError(error).message}` })
          )
          await freezing
          freezing = undefined
          return parts
        },
        rollBack: () => {
          if (freezing !== undefined) late(freezing)
          if (given !== undefined) thawed = thaw(given.value)
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
  // If the successor has committed, the end of the channel does not decide the outcome
  void channel.closed.then(() => owner.settled()).then(outcome.resolve)
  const timer = setTimeout(() => channel.destroy(), timeout)
  await outcome.promise
  clearTimeout(timer)
  await thawed
  void channel.close()
  await owner.stop()
  return taken
}

/**
 * Takes the state of the process at the other end of a socketpair, of which `end` is moved in. Resolves to it, which is the caller's; to undefined
 * if that keeps it. `timeout`, in ms: for all of it. Never rejects.
 */
export async function takeState(end: Descriptor, accepts: unknown, timeout: number): Promise<Taken | undefined> {
  let locked: LockedState | undefined
  try {
    const channel = await connectOwn<unknown, Asked>(end, { authorize, handshakeTimeout: timeout, requestTimeout: 0 })
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
    succession.life.end() // the mark is in it
    void channel.close()
    return { state: locked.value, connections: locked.connections }
  } catch {
    locked?.close()
    return undefined
  }
}
