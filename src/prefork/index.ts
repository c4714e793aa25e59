/** passfd/prefork: a supervisor and workers that serve the same ports and lose nothing. */
export type { AdminCommand, AdminEvent, AdminStatus, AdminWorker } from './admin.ts'
export type { ListenAddress } from './bound.ts'
export { type JoinOptions, joinSupervisor } from './join.ts'
export { METRICS_CONTENT_TYPE } from './metrics.ts'
export type {
  AdminSpec,
  Balance,
  Dispatch,
  Route,
  Routed,
  SpawnSettings,
  SupervisorOptions,
  WorkerLimits
} from './options.ts'
export type { ConnectionHandler } from './receiver.ts'
export { type Death, type Decision, type RestartOptions, type RestartPolicy, restartPolicy } from './restart.ts'
export { Supervisor, type SupervisorEvents, type SupervisorPhase } from './supervisor.ts'
export type { StopContext, StopHandler, Worker } from './worker.ts'
export type { WorkerInfo, WorkerState } from './worker-info.ts'
