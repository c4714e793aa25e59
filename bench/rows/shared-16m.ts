import { passfdMemory } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '16 MiB blocks in shared memory that is used again, filled and read, one way',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: passfdMemory('shared-16384'),
  peers: {
    'passfd copying': passfdMemory('copied-16384'),
    'passfd copying into a slot': passfdMemory('placed-16384')
  }
} satisfies Row
