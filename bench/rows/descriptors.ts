import { floor, passfd, processSend } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'one descriptor and a small value a message; each is received as a Descriptor and closed',
  unit: 'descriptors/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('descriptors'),
  peers: {
    'C one a call': floor('descriptors', '1'),
    'process.send handle': processSend('descriptors')
  },
  targets: { 'C one a call': 2, 'process.send handle': 60, usocket: 7 }
} satisfies Row
