import { websockets } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '10,000 WebSockets of ws in one worker, echoes of 64 bytes on 1,000 of them, one under way on each',
  unit: 'echoes/s',
  better: 'more',
  placement: 'sharing two cores',
  ours: websockets('passfd'),
  peers: { 'ws without passfd': websockets('alone') },
  targets: { 'ws without passfd': 0.97 }
} satisfies Row
