/**
 * Why a value can't be encoded, and where in it. The encoder throws a Refusal where it finds the reason; every container that the
 * exception passes through adds the step that led there. So nothing is paid for a place until one is needed, and no getter is called again.
 */

import { isPassfdError, textOf as messageOf, PassfdError, propertyOf } from '../base/errors.ts'
import { MAX_DEPTH } from '../base/kernel-limits.ts'
import { madeElsewhere } from '../base/package-copy.ts'

/** How a part is reached from what holds it: a key or index, or the text of a call. */
export type Step = string | number | { text: string }

export class Refusal {
  readonly #own = true

  /** What the part at the place is or does: a verb, and what to send instead. */
  readonly problem: string
  readonly cause: unknown
  /** Goes to the caller as it is. */
  readonly error: PassfdError | undefined
  /** From the part outwards. */
  readonly trail: { container: object; step: Step }[] = []

  constructor(problem: string, cause?: unknown, error?: PassfdError) {
    this.problem = problem
    this.cause = cause
    this.error = error
  }

  /** A program may throw what can't even be asked for its class. */
  static is(thrown: unknown): thrown is Refusal {
    return typeof thrown === 'object' && thrown !== null && #own in thrown
  }
}

/** The reasons that the encoder itself finds. */
export const changed = (): Refusal => new Refusal('changes while it is encoded, by a getter of it or as a Proxy')
export const tooDeep = (): Refusal => new Refusal(`is nested deeper than ${MAX_DEPTH}`)

/** Adds a step to an error that passes through `container`. If it is no Refusal, the program's code threw it: a getter, a trap, a toJSON(). */
export function within(thrown: unknown, container: object, step: Step): Refusal {
  const refusal = Refusal.is(thrown) ? thrown : ofProgram(thrown)
  refusal.trail.push({ container, step })
  return refusal
}

/** The error for the caller. `copied`: what was encoded as a copy of the whole value. */
export function encodeError(thrown: unknown, value: unknown, copied?: unknown): PassfdError {
  const refusal = Refusal.is(thrown) ? thrown : ofProgram(thrown)
  if (refusal.error !== undefined) return refusal.error
  const trail = refusal.trail.toReversed()
  if (trail[0] !== undefined && trail[0].container === copied) trail[0].container = value as object
  const options = refusal.cause === undefined ? undefined : { cause: refusal.cause }
  return new PassfdError('ENCODE', { detail: cycleIn(trail) ?? `${placeOf(trail)} ${refusal.problem}` }, options)
}

/** Only a value that is nested too deeply can be a cycle. */
function cycleIn(trail: Refusal['trail']): string | undefined {
  if (trail.length < MAX_DEPTH) return undefined
  const met = new Map<object, number>()
  for (const [index, { container }] of trail.entries()) {
    const first = met.get(container)
    if (first !== undefined)
      return `${placeOf(trail.slice(0, index))} refers to itself: it is ${placeOf(trail.slice(0, first))} again`
    met.set(container, index)
  }
  return undefined
}

const MAX_STEPS = 12
const MAX_STEP = 60

/** `value.users[3].when`; of a long way the beginning and the end. */
function placeOf(trail: Refusal['trail']): string {
  const steps = trail.map(({ step }) => textOf(step))
  if (steps.length > MAX_STEPS) steps.splice(MAX_STEPS / 2, steps.length - MAX_STEPS, ' … ')
  return `value${steps.join('')}`
}

function textOf(step: Step): string {
  if (typeof step === 'number') return `[${step}]`
  if (typeof step === 'object') return step.text
  if (/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(step) && step.length <= MAX_STEP) return `.${step}`
  return `[${quoted(step)}]`
}

export function quoted(text: string): string {
  return JSON.stringify(text.length > MAX_STEP ? `${text.slice(0, MAX_STEP)}…` : text)
}

function ofProgram(thrown: unknown): Refusal {
  const elsewhere = madeElsewhere(thrown) // thrown by toJSON() of a Descriptor or Connection of that copy
  return new Refusal(elsewhere === undefined ? problemOf(thrown) : `is an object of ${elsewhere.by}`, thrown)
}

function problemOf(thrown: unknown): string {
  const text = messageOf(thrown).slice(0, 200)
  if (propertyOf(thrown, 'name') === 'RangeError' && /call stack/i.test(text)) return 'is nested too deep'
  return `can't be read: ${isPassfdError(thrown) ? text.replace(/^The value can't be sent: |\.$/g, '') : text}`
}
