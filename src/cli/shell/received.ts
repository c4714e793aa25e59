/** Describes descriptors that have arrived in this process. */
import { fstat, readlinkSync, type Stats } from 'node:fs'
import { promisify } from 'node:util'
import { describeHeld, type Held } from './held.ts'
import { Survey } from './survey.ts'
import type { Arrived } from './values.ts'

/** A description, without the number that it has in this process. */
export type Received = Omit<Held, 'fd'>

const statOf = promisify(fstat)

/** Describes the descriptors of one message. A file whose file system does not answer blocks another thread, and not this one. */
export async function describeAll(arrived: Iterable<Arrived>): Promise<Map<Arrived, Received>> {
  const survey = new Survey('self')
  const described = new Map<Arrived, Received>()
  for (const one of arrived) described.set(one, await describe(one, survey))
  return described
}

async function describe({ descriptor }: Arrived, survey: Survey): Promise<Received> {
  const number = descriptor.borrow()
  const link = readlinkSync(`/proc/self/fd/${number}`)
  const stat: Stats | undefined = link.startsWith('/') ? await statOf(number).catch(() => undefined) : undefined
  const { fd: _, flags = [], ...held } = describeHeld('self', number, link, survey, () => stat)
  // Close-on-exec is this process's own
  return { ...held, flags: flags.filter(flag => flag !== 'close-on-exec') }
}
