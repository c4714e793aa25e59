import {
  clusterNone,
  clusterRoundRobin,
  oneProcess,
  pm2,
  preforkDispatch,
  preforkPerWorker,
  preforkShared
} from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'HTTP requests to two workers, a connection for each, 64 under way',
  unit: 'requests/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: preforkPerWorker('close'),
  peers: {
    'passfd shared': preforkShared('close'),
    'passfd dispatch': preforkDispatch('close'),
    'cluster round robin': clusterRoundRobin('close'),
    'cluster SCHED_NONE': clusterNone('close'),
    pm2: pm2('close'),
    'one process': oneProcess('close')
  },
  targets: { 'cluster round robin': 1.7, 'cluster SCHED_NONE': 1 }
} satisfies Row
