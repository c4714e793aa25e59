/** Who holds which descriptor number, for descriptors that the kernel knows nothing of. */
import { native } from '../../src/os/native.ts'

export type Side = 'left' | 'right'

/**
 * `app`: the program's own. `lent`: the program's until a scope ends. `given`: returned by a handler, so moved or closed by the
 * channel. `channel`: moved into the channel, or arrived in it. `closing`: handed over to be closed. `released`: detached.
 */
export type Holder = 'app' | 'lent' | 'given' | 'channel' | 'closing' | 'released' | 'closed'

/** An open file in flight: it has left `from`, and stands in the receiver's table once it is received. */
export interface Reference {
  readonly object: number
  received: boolean
}

interface Entry {
  readonly side: Side
  readonly object: number
  holder: Holder
  /** Since it was moved: where it went. */
  reference: Reference | undefined
  /** Its number was closed by somebody else: nothing that is done with it counts any more. */
  behind: boolean
}

const EBADF = -9
export const EINVAL = -22

/** Far beyond any real number, and never given twice in this process. */
const FIRST = 1_000_000
let next = FIRST

export class Ledger {
  readonly problems: string[] = []
  /** False: only that nothing is used or closed twice is checked, not by whom. */
  readonly #strict: boolean
  readonly #entries = new Map<number, Entry>()
  #objects = 0
  readonly #gone = new Set<Side>()
  /** Open files that the kernel passes to nobody, as an io_uring. */
  readonly #rings = new Set<number>()

  constructor(strict = true) {
    this.#strict = strict
  }

  /** A fresh open file (or another number of `object`). */
  open(side: Side, holder: Holder, object = ++this.#objects): number {
    const fd = next++
    this.#entries.set(fd, { side, object, holder, reference: undefined, behind: false })
    return fd
  }

  /** The same for a file that the kernel refuses to pass. */
  openRing(side: Side, holder: Holder): number {
    const fd = this.open(side, holder)
    this.#rings.add(this.object(fd))
    return fd
  }

  /** Somebody closes the number, whoever it belongs to. */
  closeBehind(fd: number): void {
    this.#entry(fd).behind = true
  }

  /** What sendmsg(2) says of the number before it looks at anything else: 0, or the error. */
  refusal(fd: number): number {
    const { behind, object } = this.#entry(fd)
    return behind ? EBADF : this.#rings.has(object) ? EINVAL : 0
  }

  object(fd: number): number {
    return this.#entry(fd).object
  }

  holder(fd: number): Holder {
    return this.#entry(fd).holder
  }

  /** Whether it has left since it was moved. */
  left(fd: number): boolean {
    return this.#entry(fd).reference !== undefined
  }

  /** The number goes from one of the holders `from` to `to`. */
  pass(fd: number, from: readonly Holder[], to: Holder, what: string): void {
    const entry = this.#entry(fd)
    if (this.#gone.has(entry.side)) return
    const fits = this.#strict || what === 'close(2)' ? from.includes(entry.holder) : !/^clos/.test(entry.holder)
    if (!fits && !entry.behind) this.problem(`${what}: ${fd} of ${entry.side} is held by ${entry.holder}`)
    entry.holder = to
    if (to === 'channel' || to === 'given') entry.reference = undefined
  }

  /** It goes on its way, its number stays. */
  depart(fd: number): Reference {
    const entry = this.#entry(fd)
    if (this.#strict && entry.holder !== 'channel' && entry.holder !== 'given')
      this.problem(`sent: ${fd} of ${entry.side} is held by ${entry.holder}`)
    if (this.refusal(fd) !== 0) this.problem(`sent: ${fd} of ${entry.side}, which the kernel refuses`)
    if (entry.reference !== undefined) this.problem(`sent: ${fd} of ${entry.side} has been sent already`)
    entry.reference = { object: entry.object, received: false }
    return entry.reference
  }

  /** It stands in the receiver's table now. */
  arrive(side: Side, reference: Reference): number {
    reference.received = true
    return this.open(side, 'channel', reference.object)
  }

  /** Whether the peer has got it since it was moved. */
  received(fd: number): boolean {
    return this.#entry(fd).reference?.received ?? false
  }

  /** A process ends: the kernel closes what it held. */
  end(side: Side): void {
    this.#gone.add(side)
    for (const entry of this.#entries.values()) if (entry.side === side) entry.holder = 'closed'
  }

  /** What is not closed yet. */
  get rest(): string[] {
    return [...this.#entries]
      .filter(([, { holder, behind }]) => holder !== 'closed' && !behind)
      .map(([fd, { side, holder, object }]) => `${fd} (file ${object}) of ${side}, held by ${holder}`)
  }

  problem(text: string): void {
    this.problems.push(text)
  }

  /** From now on `native` closes, releases and duplicates numbers of this ledger in it. */
  install(): () => void {
    const { close, release, dup, share, separate, closeLater, statusFlags } = native
    native.close = fd => {
      if (fd < FIRST) return close(fd)
      this.pass(fd, ['app', 'given'], 'closed', 'native.close')
      return 0
    }
    native.release = fd => {
      if (fd < FIRST) return release(fd)
      this.pass(fd, ['app', 'lent'], 'released', 'native.release')
      return 0
    }
    native.dup = fd => {
      if (fd < FIRST) return dup(fd)
      const { side, object, behind } = this.#entry(fd)
      return behind ? EBADF : this.open(side, 'app', object)
    }
    native.statusFlags = fd => (fd < FIRST ? statusFlags(fd) : this.#entry(fd).behind ? EBADF : 0)
    // A number each, as if they were separated at once
    native.share = fd => (fd < FIRST ? share(fd) : native.dup(fd))
    native.separate = fd => (fd < FIRST ? separate(fd) : fd)
    native.closeLater = (fds, start, count, tag) => {
      if (count === 0 || fds[start]! < FIRST) return closeLater(fds, start, count, tag)
      this.problem(`native.closeLater: a Descriptor of ${fds[start]} was collected`)
      return 0
    }
    return () => Object.assign(native, { close, release, dup, share, separate, closeLater, statusFlags })
  }

  #entry(fd: number): Entry {
    const entry = this.#entries.get(fd)
    if (entry === undefined) throw new Error(`nobody has opened ${fd}`)
    return entry
  }
}
