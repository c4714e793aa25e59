import { floor, passfd } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'small messages, each send() awaited',
  unit: 'messages/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('messages-awaited'),
  peers: {
    'C one a call': floor('messages')
  },
  targets: { 'C one a call': 1.8 }
} satisfies Row
