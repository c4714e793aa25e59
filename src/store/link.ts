/** A client's connection to a store: it connects again when it ends, and repeats what was not answered. */
import { randomBytes } from 'node:crypto'
import { setTimeout } from 'node:timers'
import { whenAborted } from '../base/abort-signals.ts'
import { describe } from '../base/check.ts'
import { abortError, asError, PassfdError } from '../base/errors.ts'
import { keepAlive } from '../base/timers.ts'
import type { Channel } from '../channel/channel.ts'
import { connect } from '../channel/connect.ts'
import { closeUnused } from '../channel/find-descriptors.ts'
import type { Peer } from '../descriptor/peer.ts'
import { asOwn, MAX_KEPT, type Told, VERSION } from './messages.ts'

/** Requests that are under way at a time. Further ones wait here. */
const UNDER_WAY = 128
/** Pauses between two tries to connect, in ms: each is twice as long as the one before. */
const FIRST_PAUSE = 5
const LAST_PAUSE = 1000
/** A request after which so many channels in a row have ended with an error fails: it may be the reason. */
const TRIES = 3
/** What answers may bring at a time: entries have up to 253 descriptors. */
const MAX_UNCLAIMED = 65_536
/** Errors of a connect that meets a store which is just being replaced. */
const AGAIN = ['ERR_PASSFD_REFUSED', 'ERR_PASSFD_DISCONNECTED', 'ERR_PASSFD_STORE_MOVED', 'ECONNRESET', 'EPIPE']

export type LinkAddress = string | { path: string } | { abstract: string }

export interface LinkOptions {
  readonly authorize: ((peer: Peer) => boolean | Promise<boolean>) | undefined
  /** How long a request waits for a store that is gone, in ms. 0: for ever. */
  readonly reconnectTimeout: number
  readonly signal: AbortSignal | undefined
}

/** The store's answer to hello. */
export interface Welcome {
  readonly epoch: string
  readonly known: boolean
  readonly gone: readonly number[]
  readonly leases: readonly number[]
}

export interface LinkOwner {
  /** Numbers of the entries that this client has put with `keep`. */
  kept(): number[]
  /** Connected again. `isLost`: the store was lost with everything in it; `died`: its channel had ended without a goodbye. */
  connected(welcome: Welcome, how: { isLost: boolean; died: boolean }): void
  onTold(told: Told): void
}

/** Returns what to send. Called for each try. Throws the failure of the request. */
export type Build = (id: { id: number; seen: number } | undefined) => object

interface Pending {
  readonly build: Build
  readonly id: number | undefined
  /** The most descriptors that the answer brings. */
  readonly descriptors: number
  resolve(answer: unknown): void
  reject(error: unknown): void
  /** It is under way. */
  isSent: boolean
  /** On which it was sent last, so the store may have done it. */
  channel: Channel<Told, object> | undefined
  tries: number
}

export class Link {
  readonly #address: LinkAddress
  readonly #options: LinkOptions
  readonly #owner: LinkOwner
  readonly #client = randomBytes(16)
  /** In their order. */
  readonly #pending = new Set<Pending>()
  #nextId = 1
  #underWay = 0
  #channel: Channel<Told, object> | undefined
  #epoch: string | undefined
  /** The last channel has ended without a goodbye. */
  #died = false
  #isClosed = false
  #holders = 0
  /** When it has lost the store, by performance.now(). */
  #lostAt: number | undefined
  /** A try to connect, which ends with this. */
  readonly #ending = new AbortController()
  #pause: { timer: NodeJS.Timeout; end(): void } | undefined

  constructor(address: LinkAddress, options: LinkOptions, owner: LinkOwner) {
    this.#address = address
    this.#options = options
    this.#owner = owner
  }

  /** The store's process; undefined while there is none. */
  get peer(): Peer | undefined {
    return this.#channel?.peer
  }

  /** The first connect. Rejects as `connect()`. */
  async open(): Promise<void> {
    const { signal } = this.#options
    for (let pause = FIRST_PAUSE; ; pause = Math.min(LAST_PAUSE, pause * 2)) {
      try {
        await this.#connect(signal)
        return
      } catch (error) {
        if (!AGAIN.includes((error as { code: string }).code) || pause > LAST_PAUSE / 2) throw error
        if (signal?.aborted) throw abortError(signal)
        await new Promise(resolve => setTimeout(resolve, pause))
      }
    }
  }

  /** Sends a request that changes nothing. */
  ask(request: object | (() => object), descriptors = 0): Promise<unknown> {
    return this.#request(
      typeof request === 'function' ? (request as () => object) : () => request,
      descriptors,
      undefined
    )
  }

  /** Sends a request that the store does once, however often it is sent. */
  change(build: Build, descriptors = 0): Promise<unknown> {
    return this.#request(build, descriptors, this.#nextId++)
  }

  /** Keeps the process running until `release()` was called as often. */
  hold(): void {
    this.#holders++
    this.#keepAlive()
  }

  release(): void {
    this.#holders--
    this.#keepAlive()
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    const channel = this.#channel
    this.#channel = undefined
    this.#pause?.end()
    this.#ending.abort()
    this.#failAll(new PassfdError('STORE_CLIENT_CLOSED'))
    await channel?.close()
  }

  // --- requests

  #request(build: Build, descriptors: number, id: number | undefined): Promise<unknown> {
    if (this.#isClosed) return Promise.reject(new PassfdError('STORE_CLIENT_CLOSED'))
    return new Promise((resolve, reject) => {
      const pending = { build, id, descriptors, resolve, reject, isSent: false, channel: undefined, tries: 0 }
      this.#pending.add(pending)
      if (this.#pending.size === 1) this.hold()
      if (this.#channel !== undefined) this.#send(this.#channel)
      else this.#waitForStore()
    })
  }

  /** Sends what was not sent on this channel, in order, as far as there is room. */
  #send(channel: Channel<Told, object>): void {
    if (this.#underWay >= UNDER_WAY) return
    for (const pending of this.#pending) {
      if (pending.isSent) continue
      if (this.#underWay >= UNDER_WAY || !this.#sendOne(channel, pending)) return
    }
  }

  /** Returns false if the channel has no room now. */
  #sendOne(channel: Channel<Told, object>, pending: Pending): boolean {
    const { build, descriptors, id } = pending
    let answer: Promise<unknown>
    try {
      const request = build(id === undefined ? undefined : { id, seen: this.#seen() })
      answer = channel.request(request, { descriptors, timeout: 0 })
    } catch (error) {
      const { code } = error as { code?: string }
      if (code === 'ERR_PASSFD_QUEUE_FULL' && this.#underWay > 0) return false
      if (code === 'ERR_PASSFD_CHANNEL_CLOSED') return false
      this.#settle(pending, () => pending.reject(error))
      return true
    }
    pending.isSent = true
    pending.channel = channel
    this.#underWay++
    answer.then(
      value => {
        if (!this.#pending.has(pending)) closeUnused(value) // nobody waits for it any more
        this.#answered(channel, pending, () => pending.resolve(value))
      },
      error => this.#failed(channel, pending, asOwn(error))
    )
    return true
  }

  /** The answers to all requests with an id up to this one are there. */
  #seen(): number {
    for (const { id } of this.#pending) if (id !== undefined) return id - 1
    return this.#nextId - 1
  }

  #answered(channel: Channel<Told, object>, pending: Pending, settle: () => void): void {
    this.#underWay--
    this.#settle(pending, settle)
    if (channel === this.#channel) this.#send(channel)
  }

  #failed(channel: Channel<Told, object>, pending: Pending, error: unknown): void {
    const { code, remote } = error as PassfdError
    const isAnswer = remote !== undefined && code !== 'ERR_PASSFD_PEER'
    if (isAnswer && code !== 'ERR_PASSFD_STORE_MOVED') {
      this.#answered(channel, pending, () => pending.reject(error))
      return
    }
    // The store has not answered: the request is repeated on the next channel
    this.#underWay--
    pending.isSent = false
    if (code === 'ERR_PASSFD_STORE_MOVED') void channel.close()
    else if (!this.#isClosed && code !== 'ERR_PASSFD_CLOSED') {
      // Of this request alone, as a schema's or an AbortError
      this.#settle(pending, () => pending.reject(error))
    }
  }

  #settle(pending: Pending, settle: () => void): void {
    if (!this.#pending.delete(pending)) return
    if (this.#pending.size === 0) this.release()
    settle()
  }

  #failAll(error: unknown, which: (pending: Pending) => boolean = () => true): void {
    for (const pending of [...this.#pending]) if (which(pending)) this.#settle(pending, () => pending.reject(error))
  }

  // --- channels

  async #connect(signal: AbortSignal | undefined): Promise<void> {
    const { authorize } = this.#options
    const channel = await connect<Told, object>(this.#address, {
      maxUnclaimed: MAX_UNCLAIMED,
      ...(authorize === undefined ? {} : { authorize }),
      ...(signal === undefined ? {} : { signal })
    })
    const forget = whenAborted(signal, () => channel.destroy())
    let welcome: Welcome
    try {
      welcome = await this.#hello(channel)
    } catch (error) {
      void channel.close()
      if (signal?.aborted) throw abortError(signal)
      throw asOwn(error)
    } finally {
      forget()
    }
    if (this.#isClosed) {
      void channel.close()
      return
    }
    channel.on('message', ({ value }) => this.#owner.onTold(value))
    void channel.closed.then(error => this.#ended(channel, error))
    this.#open(channel, welcome)
  }

  /** Long lists of what is kept go in parts, before all else. */
  async #hello(channel: Channel<Told, object>): Promise<Welcome> {
    const kept = this.#owner.kept()
    const hello = { do: 'hello', store: VERSION, client: this.#client, kept: kept.slice(0, MAX_KEPT) }
    const welcome = readWelcome(await channel.request(hello, { descriptors: 0 }))
    if (welcome.epoch !== this.#epoch) return welcome
    const gone = [...welcome.gone]
    for (let at = MAX_KEPT; at < kept.length; at += MAX_KEPT) {
      const request = { do: 'kept', entries: kept.slice(at, at + MAX_KEPT) }
      gone.push(...((await channel.request(request, { descriptors: 0 })) as { gone: number[] }).gone)
    }
    return { ...welcome, gone }
  }

  #open(channel: Channel<Told, object>, welcome: Welcome): void {
    const isFirst = this.#epoch === undefined
    const isLost = !isFirst && this.#epoch !== welcome.epoch
    this.#epoch = welcome.epoch
    this.#lostAt = undefined
    this.#channel = channel
    this.#keepAlive()
    if (!isFirst) {
      // What the store can't know any more it must not do again
      if (!isLost && !welcome.known)
        this.#failAll(
          new PassfdError('STORE_UNKNOWN'),
          pending => pending.channel !== undefined && pending.id !== undefined
        )
      this.#owner.connected(welcome, { isLost, died: this.#died })
    }
    this.#send(channel)
  }

  #ended(channel: Channel<Told, object>, error: Error | undefined): void {
    if (this.#channel !== channel) return
    this.#channel = undefined
    const { code } = (error ?? {}) as { code?: string }
    this.#died = code === 'ERR_PASSFD_DISCONNECTED' || (code !== undefined && !code.startsWith('ERR_PASSFD_'))
    if (error !== undefined)
      for (const pending of [...this.#pending]) {
        if (pending.channel !== channel || ++pending.tries < TRIES) continue
        this.#settle(pending, () => pending.reject(error))
      }
    void this.#connectAgain()
  }

  async #connectAgain(): Promise<void> {
    this.#lostAt = performance.now()
    for (let pause = 0; !this.#isClosed; pause = Math.min(LAST_PAUSE, Math.max(FIRST_PAUSE, pause * 2))) {
      if (pause > 0) await this.#wait(pause)
      if (this.#isClosed) return
      try {
        await this.#connect(this.#ending.signal)
        return
      } catch (error) {
        this.#unreachable(asError(error))
      }
    }
  }

  #wait(pause: number): Promise<void> {
    return new Promise(resolve => {
      const end = (): void => {
        clearTimeout(this.#pause?.timer)
        this.#pause = undefined
        resolve()
      }
      this.#pause = { timer: setTimeout(end, pause), end }
      this.#keepAlive()
    })
  }

  /** A request was made while there is no store. */
  #waitForStore(): void {
    this.#keepAlive()
    if (this.#isOverdue()) {
      this.#lostAt = performance.now() // it has its own time
      this.#pause?.end()
    }
  }

  #isOverdue(): boolean {
    const { reconnectTimeout } = this.#options
    return reconnectTimeout > 0 && this.#lostAt !== undefined && performance.now() - this.#lostAt > reconnectTimeout
  }

  #unreachable(cause: Error): void {
    if (!this.#isOverdue()) return
    const { reconnectTimeout: timeout } = this.#options
    const address = typeof this.#address === 'string' ? this.#address : describe(Object.values(this.#address)[0])
    this.#failAll(new PassfdError('STORE_UNREACHABLE', { address, timeout }, { cause }))
  }

  #keepAlive(): void {
    const isHeld = this.#holders > 0
    if (isHeld) this.#channel?.ref()
    else this.#channel?.unref()
    keepAlive(this.#pause?.timer, isHeld)
  }
}

/** Throws ERR_PASSFD_STORE_REQUEST. */
export function readWelcome(answer: unknown): Welcome {
  const { epoch, known, gone, leases } = (answer ?? {}) as Record<string, unknown>
  if (!(epoch instanceof Uint8Array) || !Array.isArray(gone) || !Array.isArray(leases))
    throw new PassfdError('STORE_REQUEST', { detail: 'the peer is no store' })
  return { epoch: Buffer.from(epoch).toString('hex'), known: known === true, gone, leases }
}
