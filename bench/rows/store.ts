import { floor, store } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a copy of a descriptor from a passfd/store in another process, one at a time, median',
  unit: 'µs',
  better: 'less',
  placement: 'one core',
  ours: store('copy'),
  peers: {
    'C sendmsg, recvmsg': floor('round-trip', '1'),
    'passfd, a bare request': store('channel')
  },
  targets: { 'passfd, a bare request': 2 }
} satisfies Row
