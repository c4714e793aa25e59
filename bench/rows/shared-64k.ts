import { passfdMemory } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '64 KiB blocks in shared memory that is used again, filled and read, one way',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: passfdMemory('shared-64'),
  peers: {
    'passfd copying': passfdMemory('copied-64'),
    'passfd copying into a slot': passfdMemory('placed-64')
  }
} satisfies Row
