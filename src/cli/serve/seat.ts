/** Who may serve under a name. */
import type { PassfdError, Peer } from '../../index.ts'
import { takeoverStatus } from '../../takeover/index.ts'
import { CommandError, EXIT } from '../exit.ts'

/** Whether this server may replace one that runs. The takeover path decides, so that of two servers that start at once only one serves. */
export class Seat {
  readonly #mayReplace: boolean
  readonly #user = process.geteuid!()
  #isTaken = false
  #owner: number | undefined

  constructor(mayReplace: boolean) {
    this.#mayReplace = mayReplace
  }

  /** From now on the other side is a successor. */
  taken(): void {
    this.#isTaken = true
  }

  admits({ pid, uid }: Peer): boolean {
    if (uid !== this.#user && uid !== 0) return false
    if (this.#isTaken || this.#mayReplace) return true
    this.#owner = pid
    return false
  }

  /** Asks who serves at the takeover path. To be called before this server tries to, because what it needs is taken. */
  async look(path: string): Promise<void> {
    if (!this.#mayReplace) this.#owner ??= (await takeoverStatus(path).catch(() => undefined))?.owner.pid
  }

  explain(error: PassfdError, name: string): Error {
    if (this.#owner === undefined) return error
    return new CommandError(
      EXIT.temporary,
      `Process ${this.#owner} serves as "${name}" already`,
      `Replace it with --takeover, stop it with "passfd stop ${name}", or choose another --name`,
      { code: error.code, cause: error }
    )
  }
}
