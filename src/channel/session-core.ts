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
 * *unsent*: it never left this process. *unconfirmed*: it left, and the peer may hold it, too. *refused*: it was the answer to a request that
 * was given up.
 */
export type ReturnState = 'unsent' | 'unconfirmed' | 'refused'

/** What a session reports to the channel on top of it. */
export interface SessionOwner {
  onOpen(hello: Hello): void
  /**
   * A message, or a request that waits for an answer. The descriptors are lent to the program. True: the program has it. False: it waits,
   * and the owner calls `consumed` with its `cost` when the program is given it.
   */
  onMessage(request: PeerRequest | undefined, value: unknown, descriptors: readonly Descriptor[], cost: number): boolean
  /** Descriptors that were moved and not taken. */
  onReturned(state: ReturnState, parcel: Parcel): void
  /** `error` undefined: both sides said goodbye. */
  onEnd(error: Error | undefined): void
  /** It has ended, and the application holds nothing any more that was lent to it. */
  onGivenBack(): void
}

export interface SessionCore {
  readonly limits: Limits
  readonly state: State
  /** Whether `state` is *ended*: to be asked again after a call of the program's. */
  readonly isOver: boolean
  /** What the peer's hello says; undefined before it. */
  readonly peer: Hello | undefined
  /** In which the program's functions run. */
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
  /** Writes when the program has sent what it has to send now. Answers to what is being read leave when all of that is read. */
  scheduleAtTick(): void
  /**
   * Writes as soon as the promises that are settled now have had their say: for requests and answers, because a peer waits for them. A program
   * that awaits one `send` after the other would make a write of each.
   */
  scheduleAtMicrotask(): void
  /** Called when something was sent, has come back or was answered: closing continues if it waited for that. */
  settle(): void
  /** The application was given a message that cost this much. */
  consumed(cost: number): void
  /** The peer has taken all descriptors that it was sent. */
  allTaken(): void
}
