import { fairness } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'round trip on one channel while another process floods the same server through another one, 99th percentile',
  unit: 'µs',
  better: 'less',
  placement: 'sharing two cores',
  ours: fairness('passfd'),
  peers: {
    'net.Socket + msgpackr': fairness('socket'),
    'without the flood': fairness('passfd-quiet')
  },
  bound: 2000
} satisfies Row
