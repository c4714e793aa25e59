/** What the parts of a session (sending, receiving, custody) know of it and of each other's state. */
import type { AsyncContext } from '../base/async-context.ts'
import type { PassfdError } from '../base/errors.ts'
import type { Codec } from '../codec/codec.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import type { Credit } from './credit.ts'
import type { Hello } from './hello.ts'
import type { Limits } from './options.ts'
import type { OwnRequests } from './own-requests.ts'
import type { Parcel } from './parcel.ts'
import type { PeerRequest, PeerRequests } from './peer-requests.ts'
import type { Transport } from './transport.ts'

export type State = 'greeting' | 'open' | 'draining' | 'leaving' | 'ended'

/**
 * *unsent*: it never left this process. *unconfirmed*: it left, and the peer may hold it, too. *refused*: it answers a request that the requester
 * had given up.
 */
export type ReturnState = 'unsent' | 'unconfirmed' | 'refused'

/** What a session reports to the channel on top of it. */
export interface SessionOwner {
  onOpen(hello: Hello): void
  /**
   * Gets a message or request, with descriptors lent to the program. Returns true if the program has it. False: it waits, and the owner calls
   * `consumed` with its `cost` when the program gets it. `lent`: the memory of its binary values, if that is lent, too.
   */
  onMessage(
    request: PeerRequest | undefined,
    value: unknown,
    descriptors: readonly Descriptor[],
    cost: number,
    lent: ArrayBuffer | undefined
  ): boolean
  /** Gets moved descriptors that the peer did not take. */
  onReturned(state: ReturnState, parcel: Parcel): void
  /** The session has ended. `error` undefined: both sides have sent a goodbye. */
  onEnd(error: Error | undefined): void
  /** It has ended, and the application holds no lent descriptor any more. */
  onGivenBack(): void
}

export interface SessionCore {
  readonly limits: Limits
  readonly state: State
  /** Whether `state` is *ended*. Check it again after each call of the program's code. */
  readonly isOver: boolean
  /** What the peer's hello says; undefined before it. */
  readonly peer: Hello | undefined
  /** The async context of the program's functions. */
  readonly context: AsyncContext
  readonly owner: SessionOwner
  readonly transport: Transport
  readonly codec: Codec
  readonly credit: Credit
  /** Requests of this side. */
  readonly requests: OwnRequests
  readonly peerRequests: PeerRequests
  /** ERR_PASSFD_CLOSED, with what ended the session. */
  closedError(): PassfdError
  /** Writes at nextTick, when the program has sent all of this turn. During a read it writes when the whole read is handled. */
  scheduleAtTick(): void
  /**
   * Writes in a microtask: for requests and answers, because a peer waits for them. For messages this would make one write of each `send` that a
   * program awaits.
   */
  scheduleAtMicrotask(): void
  /** Called when something was sent, has come back or was answered: closing continues if it waited for that. */
  settle(): void
  /** The application has got a message that cost this much. */
  consumed(cost: number): void
  /** The peer has confirmed all descriptors that it was sent. */
  allTaken(): void
}
