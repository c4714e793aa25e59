import { growth } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'by how much the resident memory of both ends has grown since the first million messages, after 4, 8 … 20 million more',
  unit: 'bytes',
  better: 'less',
  placement: 'two cores',
  ours: growth('flat'),
  peers: {},
  // Less than a byte for each of ten million messages
  bound: 10_000_000
} satisfies Row
