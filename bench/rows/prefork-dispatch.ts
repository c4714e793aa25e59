import { clusterRoundRobin, netServerProcessSend, netServerSend, pm2, preforkDispatch } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'HTTP requests to two workers, a connection for each, 64 under way; the parent decides which worker gets each',
  unit: 'requests/s',
  better: 'more',
  placement: 'sharing two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: preforkDispatch('close'),
  peers: {
    'cluster round robin': clusterRoundRobin('close'),
    pm2: pm2('close'),
    'net.Server + send': netServerSend('close'),
    'process.send handle': netServerProcessSend('close')
  },
  targets: { 'cluster round robin': 1.5 }
} satisfies Row
