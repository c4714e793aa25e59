import { byItself, standaloneWorker } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'CPU time of a server for an HTTP request, a connection for each, 64 under way: joinSupervisor() without a supervisor, and worker.listen()',
  unit: 'µs',
  better: 'less',
  placement: 'two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: standaloneWorker('close', 1),
  peers: { 'listening by itself': byItself('close', 1) },
  targets: { 'listening by itself': 1.03 }
} satisfies Row
