import { clusterRoundRobin, oneProcess, pm2, preforkPerWorker, underServe } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'HTTP requests to an unmodified program in two workers under passfd serve, a connection for each, 64 under way',
  unit: 'requests/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  ours: underServe('close'),
  peers: {
    'plain node, one process': oneProcess('close'),
    pm2: pm2('close'),
    'cluster round robin': clusterRoundRobin('close'),
    'passfd prefork': preforkPerWorker('close')
  },
  targets: { pm2: 1, 'passfd prefork': 0.95 }
} satisfies Row
