/** `--admin PATH`: the server is still found by its name, through a link in the runtime folder. */
import { readlinkSync, rmSync, symlinkSync } from 'node:fs'
import { resolve } from 'node:path'

export class AdminLink {
  /** Where the admin channel is. */
  readonly path: string
  readonly #link: string
  readonly #target: string | undefined
  #owned = false

  /** `link`: the path of the name's socket. Without a `target` the admin channel is there itself. */
  constructor(link: string, target: string | undefined) {
    this.#link = link
    this.#target = target === undefined || resolve(target) === link ? undefined : resolve(target)
    this.path = this.#target ?? link
  }

  /** What an earlier server has left there is replaced. Call it when this one serves. */
  make(): void {
    if (this.#target === undefined) return
    rmSync(this.#link, { force: true })
    symlinkSync(this.#target, this.#link)
    this.#owned = true
  }

  /** A successor serves: the link is its own. */
  leave(): void {
    this.#owned = false
  }

  remove(): void {
    if (this.#owned && targetOf(this.#link) === this.#target) rmSync(this.#link, { force: true })
  }
}

/** Undefined: it is no link any more. Whoever cleans temporary folders may have removed it. */
function targetOf(link: string): string | undefined {
  try {
    return readlinkSync(link)
  } catch {
    return undefined
  }
}
