/** passfd/takeover: replaces a running program by its successor, and loses nothing. */
export type { ConnectionHandler } from '../serving/descriptor-intake.ts'
export type { StopContext, StopHandler } from '../serving/stop-handlers.ts'
export type { Draining, Program, Status } from './messages.ts'
export type { TakeOverOptions, TakeoverPath } from './options.ts'
export type { FreezeContext } from './owner.ts'
export type { Report } from './place.ts'
export {
  type Seat,
  type SeatEvents,
  takeOver
} from './seat.ts'
export type { ReadyOptions } from './seat-state.ts'
export { type TakeoverStatusOptions, takeoverStatus } from './status.ts'
export type { CandidateStep, OwnerStep, TakeoverStep } from './steps.ts'
