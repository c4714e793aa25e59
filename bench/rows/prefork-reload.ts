import { clusterNone, clusterRoundRobin, pm2, preforkPerWorker } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'HTTP requests while all of two workers are replaced, one every 2 ms, a connection for each, 99th percentile',
  unit: 'ms',
  better: 'less',
  placement: 'sharing two cores',
  warmUp: 600,
  runs: 4,
  ours: preforkPerWorker('reload'),
  peers: {
    'cluster round robin': clusterRoundRobin('reload'),
    'cluster SCHED_NONE': clusterNone('reload'),
    'pm2 reload': pm2('reload'),
    'passfd without a reload': preforkPerWorker('quiet')
  },
  targets: { 'cluster round robin': 1, 'pm2 reload': 1 }
} satisfies Row
