/** How much a test tries: a little each time, a lot in `bash .ci/run full`, which sets PASSFD_TEST_FULL=1. */

export const isFull: boolean = process.env.PASSFD_TEST_FULL === '1'

/** `.ci/run` runs all tests each time. What takes a person's `npm test` long is left out there; `CI=true npm test` runs it. */
export const isInCi: boolean = isFull || process.env.CI === 'true'

/** How often: `small` in a normal run, `large` in a full one. */
export function times(small: number, large: number): number {
  return isFull ? large : small
}
