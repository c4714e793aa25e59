import { layer } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'the header of a small message written, and found again in the bytes that have come',
  unit: 'ns',
  better: 'less',
  placement: 'one core',
  ours: layer('frame', 'records'),
  peers: {
    'without records': layer('frame', 'plain'),
    'with a descriptor': layer('frame', 'descriptor')
  }
} satisfies Row
