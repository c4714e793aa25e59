import { layer } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a small message from send to the handler at the other end of the channel, everything included',
  unit: 'ns',
  better: 'less',
  placement: 'one core',
  ours: layer('channel', 'records'),
  peers: {
    'without records': layer('channel', 'plain'),
    'with a descriptor': layer('channel', 'descriptor')
  }
} satisfies Row
