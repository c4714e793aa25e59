/** What descriptions need of the whole machine. It is read when it is needed first, because that costs some ms for each process. */
import { Holders } from './holders.ts'
import { Network } from './network.ts'

export class Survey {
  readonly #pid: number | 'self'
  #network: Network | undefined
  #holders: Holders | undefined

  /** `pid`: whose network namespace it is about. */
  constructor(pid: number | 'self') {
    this.#pid = pid
  }

  get network(): Network {
    this.#network ??= new Network(this.#pid)
    return this.#network
  }

  get holders(): Holders {
    this.#holders ??= new Holders()
    return this.#holders
  }
}
