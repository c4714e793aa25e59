import { floor, passfdMemory } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '1 MiB blocks in shared memory that is used again, filled and read, one way',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: passfdMemory('shared-1024'),
  peers: {
    'C copy': floor('copy'),
    'passfd copying': passfdMemory('copied-1024'),
    'passfd copying into a slot': passfdMemory('placed-1024')
  },
  targets: { 'C copy': 2 }
} satisfies Row
