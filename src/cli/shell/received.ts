/** Describes descriptors that have arrived in this process. */
import { readlinkSync } from 'node:fs'
import { describeHeld, type Held } from './held.ts'
import { Survey } from './survey.ts'
import type { Arrived } from './values.ts'

/** A description, without the number that it has in this process. */
export type Received = Omit<Held, 'fd'>

/** For the descriptors of one message. */
export function describeReceived(): (one: Arrived) => Received {
  const survey = new Survey('self')
  return ({ descriptor }) => {
    const number = descriptor.borrow()
    const { fd: _, flags, ...held } = describeHeld('self', number, readlinkSync(`/proc/self/fd/${number}`), survey)
    // Close-on-exec is this process's own
    return {
      ...held,
      kind: descriptor.kind === 'other' ? held.kind : descriptor.kind,
      flags: flags?.filter(flag => flag !== 'close-on-exec') ?? []
    }
  }
}
