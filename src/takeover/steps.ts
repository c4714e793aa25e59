/** The named steps of a takeover, published on `passfd:takeover:step` (node:diagnostics_channel) just before they are done. */
import diagnostics from 'node:diagnostics_channel'

/** What a candidate does. */
export type CandidateStep = 'begin' | 'offer' | 'more' | 'boot' | 'freeze' | 'state' | 'commit' | 'attach' | 'mark'
/** What an owner does. */
export type OwnerStep = 'answer begin' | 'answer more' | 'answer freeze' | 'answer state' | 'letGo' | 'rollBack'

export interface TakeoverStep {
  readonly step: CandidateStep | OwnerStep
  /** The process at the other end. Between two workers it is the supervisor that has connected them. */
  readonly pid: number
}

const channel = diagnostics.channel('passfd:takeover:step')

export function publishStep(step: CandidateStep | OwnerStep, pid: number): void {
  if (channel.hasSubscribers) channel.publish({ step, pid } satisfies TakeoverStep)
}
