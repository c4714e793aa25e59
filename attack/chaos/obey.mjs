// A server of the attack does what it is told: `ready N PID`, say, resolves when N workers serve without that one
import { EventEmitter, once } from 'node:events'
import { obey, tell } from '../../test/fixtures/obey.mjs'

/** The pids of workers that serve, as the server's own events report them. */
export class Workers {
  #serving = new Set()
  #changes = new EventEmitter()

  add(pid) {
    this.#serving.add(pid)
    this.#changes.emit('change')
  }

  remove(pid) {
    this.#serving.delete(pid)
    this.#changes.emit('change')
  }

  get pids() {
    return [...this.#serving]
  }

  async ready(count, without) {
    while (this.#serving.size < count || this.#serving.has(without)) await once(this.#changes, 'change')
  }
}

/** `commands`: reload, scale, stop; beside those of `workers`. */
export function serve(workers, commands, onEnd = () => process.exit(0)) {
  obey({ workers: () => workers.pids, ready: (count, without) => workers.ready(count, without), ...commands }, onEnd)
  tell({ event: 'ready' })
}
