import { fairness } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'round trip on one channel while another process of the lowest priority floods the same server, 99th percentile',
  unit: 'µs',
  better: 'less',
  placement: 'sharing two cores',
  ours: fairness('passfd'),
  peers: {
    'net.Socket + msgpackr': fairness('socket'),
    'without the flood': fairness('passfd-quiet')
  },
  bound: 1000
} satisfies Row
