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
  what: 'HTTP requests to two workers on 64 connections that are kept alive, a request under way on each',
  unit: 'requests/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: preforkPerWorker('keep-alive'),
  peers: {
    'passfd shared': preforkShared('keep-alive'),
    'passfd dispatch': preforkDispatch('keep-alive'),
    'cluster round robin': clusterRoundRobin('keep-alive'),
    'cluster SCHED_NONE': clusterNone('keep-alive'),
    pm2: pm2('keep-alive'),
    'one process': oneProcess('keep-alive')
  },
  targets: { 'cluster round robin': 1, 'cluster SCHED_NONE': 1 }
} satisfies Row
