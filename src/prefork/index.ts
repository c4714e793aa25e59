/** passfd/prefork: a supervisor and workers that serve the same ports and lose nothing. */

export type { ListenAddress } from '../serving/bound-socket.ts'
export type { ConnectionHandler } from '../serving/descriptor-intake.ts'
export type { StopContext, StopHandler } from '../serving/stop-handlers.ts'
export type { Draining } from '../takeover/messages.ts'
export type { Report } from '../takeover/place.ts'
export type { Balance, Dispatch, Route, Routed } from './balance.ts'
export type { EmptySlot, WorkerInfo, WorkerState } from './control/worker-info.ts'
export { type Death, type Decision, type RestartOptions, type RestartPolicy, restartPolicy } from './launch/restart.ts'
export type {
  AdminSpec,
  SpawnSettings,
  SupervisorOptions,
  SupervisorTakeover,
  WorkerLimits
} from './options.ts'
export type { AdminCommand, AdminEvent, AdminStatus, AdminWorker, SubscribeAnswer } from './supervisor/admin.ts'
export type { SupervisorEvents, SupervisorPhase } from './supervisor/commands.ts'
export { METRICS_CONTENT_TYPE } from './supervisor/metrics.ts'
export { type RunOptions, Supervisor } from './supervisor/supervisor.ts'
export { type JoinOptions, joinSupervisor } from './worker/join.ts'
export type { HandOver, HandOverContext, InheritHandler, Worker } from './worker/worker.ts'
