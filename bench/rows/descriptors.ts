import { floor, passfd, processSend, python, usocket } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'one descriptor and a small value a message; each is received as a Descriptor and closed',
  unit: 'descriptors/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('descriptors'),
  peers: {
    'C one a call': floor('descriptors', '1'),
    'C 64 a call': floor('descriptors', '64'),
    'C 253 a call': floor('descriptors', '253'),
    'process.send handle': processSend('descriptors'),
    usocket: usocket('descriptors'),
    Python: python('descriptors')
  },
  targets: { 'C one a call': 2, 'process.send handle': 60, usocket: 7 }
} satisfies Row
