/** The lender of a received descriptor, which a program borrows until a scope ends, and the reports to the lender. */

/** The lender of a received descriptor, until the end of a scope. */
export interface Lender {
  /** What ended or will end the scope, for the error's sentence. */
  readonly ended: string
  readonly message: string
  readonly pid: number
  /** The borrower keeps the descriptor: it no longer counts. */
  kept(): void
  /** The borrower is done with it: the lender closes the number, off the event loop. */
  discard(fd: number): void
}

/** A lender whose scope `ended`, for error messages. It gets no reports any more. */
export function lenderThatWas({ message, pid }: Lender, ended: string): Lender {
  return { message, pid, ended, kept: nothing, discard: nothing }
}

function nothing(): void {}
