import { floor, passfd, python, usocket } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '64 descriptors a message',
  unit: 'descriptors/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('descriptors-many'),
  peers: {
    'C one a call': floor('descriptors', '1'),
    'C 64 a call': floor('descriptors', '64'),
    'C 253 a call': floor('descriptors', '253'),
    usocket: usocket('descriptors-many'),
    Python: python('descriptors-many')
  },
  targets: { 'C 64 a call': 0.6 }
} satisfies Row
