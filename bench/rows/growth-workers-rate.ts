import { clusterRoundRobin, preforkDispatch } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'connections to a Unix socket, 64 under way; the parent passes them on to 64 workers, which close them',
  unit: 'connections/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: preforkDispatch('bare', 64),
  peers: {
    '2 workers': preforkDispatch('bare'),
    '8 workers': preforkDispatch('bare', 8),
    'cluster round robin, 64': clusterRoundRobin('bare', 64)
  }
} satisfies Row
