import type { ExecutionContext } from 'ava'
import { Supervisor, type SupervisorOptions } from '../../src/prefork/index.ts'

/** A supervisor with any of these options is not made; what the error has to say of them. */
export function refuses(t: ExecutionContext, wrong: readonly [what: string, options: object][]): void {
  for (const [what, options] of wrong) {
    const error = t.throws<NodeJS.ErrnoException>(
      () => new Supervisor(options as SupervisorOptions),
      undefined,
      `${what} ${JSON.stringify(options)}`
    )
    t.is(error?.code, 'ERR_PASSFD_INVALID_ARGUMENT', what)
    t.true(error?.message.includes(what), `${what}: ${error?.message}`)
  }
}
