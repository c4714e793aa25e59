import { clusterRoundRobin, preforkPerWorker } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'memory of the supervisor and 64 idle workers, a share of what they share, for each worker',
  unit: 'MB',
  better: 'less',
  placement: 'sharing two cores',
  runs: 2,
  ours: preforkPerWorker('idle', 64),
  peers: {
    '8 workers': preforkPerWorker('idle', 8),
    '1 worker': preforkPerWorker('idle', 1),
    'cluster, 64 workers': clusterRoundRobin('idle', 64)
  },
  targets: { '8 workers': 1.1, 'cluster, 64 workers': 1.2 }
} satisfies Row
