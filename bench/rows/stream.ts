import { floor, stream } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'raw bytes, in writes of 64 KiB, one way',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: stream('passfd'),
  peers: {
    'C copy': floor('copy', '65536'),
    'net.Socket': stream('socket')
  },
  targets: { 'net.Socket': 1 }
} satisfies Row
