import { clusterRoundRobin, oneProcess, pm2, preforkPerWorker, underServe } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'HTTP requests to the same on 64 connections that are kept alive, a request under way on each',
  unit: 'requests/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  ours: underServe('keep-alive'),
  peers: {
    'plain node, one process': oneProcess('keep-alive'),
    pm2: pm2('keep-alive'),
    'cluster round robin': clusterRoundRobin('keep-alive'),
    'passfd prefork': preforkPerWorker('keep-alive')
  },
  targets: { pm2: 1, 'passfd prefork': 0.95 }
} satisfies Row
