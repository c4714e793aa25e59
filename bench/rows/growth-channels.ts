import { growth } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'CPU time of both ends for a small message, with 1,000 channels on one loop, 16 messages a turn on each',
  unit: 'ns',
  better: 'less',
  placement: 'two cores',
  runs: CPU_RUNS,
  ours: growth('channels-1000'),
  peers: {
    '1 channel': growth('channels-1'),
    '10 channels': growth('channels-10'),
    '100 channels': growth('channels-100')
  },
  targets: { '1 channel': 1.3, '10 channels': 1.3, '100 channels': 1.3 }
} satisfies Row
