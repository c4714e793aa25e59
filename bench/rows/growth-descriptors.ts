import { growth } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'CPU time of both ends for a descriptor and a small value, while 10,000 others are open in each',
  unit: 'ns',
  better: 'less',
  placement: 'two cores',
  runs: CPU_RUNS,
  ours: growth('descriptors-10000'),
  peers: { 'few open': growth('descriptors-10') },
  targets: { 'few open': 1.2 }
} satisfies Row
