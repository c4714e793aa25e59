import { floor, takeover } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a program is replaced by itself with 1,000 live connections in its state, from inherit() to the commit',
  unit: 'ms',
  better: 'less',
  placement: 'sharing two cores',
  warmUp: 600,
  ours: takeover('state-1000'),
  peers: {
    '100 connections': takeover('state-100'),
    '1 connection': takeover('state-1'),
    'C, 1,000 descriptors': floor('takeover', '1000')
  },
  targets: { '100 connections': 10 }
} satisfies Row
