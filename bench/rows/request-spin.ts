import { floor, passfd } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a small request and its reply, one at a time, median, both ends busy-polling for 50 µs (option spin)',
  unit: 'µs',
  better: 'less',
  placement: 'two cores',
  ours: passfd('request-spin'),
  peers: {
    'C epoll': floor('round-trip'),
    'C spinning': floor('spinning'),
    'without spin': passfd('request')
  },
  targets: { 'C epoll': 0.3, 'C spinning': 2 }
} satisfies Row
