import { clusterNone, clusterRoundRobin, netServerProcessSend, netServerSend, preforkDispatch } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'connections to a Unix socket, 64 under way; the parent passes them on to two workers, which close them',
  unit: 'connections/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: preforkDispatch('bare'),
  peers: {
    'net.Server + send': netServerSend('bare'),
    'process.send handle': netServerProcessSend('bare'),
    'cluster round robin': clusterRoundRobin('bare'),
    'cluster SCHED_NONE': clusterNone('bare')
  },
  targets: { 'net.Server + send': 2.5 }
} satisfies Row
