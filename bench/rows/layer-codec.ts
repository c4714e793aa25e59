import { layer } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a small message encoded, and decoded',
  unit: 'ns',
  better: 'less',
  placement: 'one core',
  ours: layer('codec', 'records'),
  peers: {
    'without records': layer('codec', 'plain'),
    'with a descriptor': layer('codec', 'descriptor')
  }
} satisfies Row
