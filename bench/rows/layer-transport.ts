import { layer } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a small message encoded, framed, written to a socket, read from it and decoded',
  unit: 'ns',
  better: 'less',
  placement: 'one core',
  ours: layer('transport', 'records'),
  peers: {
    'without records': layer('transport', 'plain'),
    'with a descriptor': layer('transport', 'descriptor')
  }
} satisfies Row
