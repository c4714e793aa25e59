import { passfdMemory } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '256 MiB blocks in shared memory that is used again, filled and read, one way',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: passfdMemory('shared-262144'),
  peers: {
    'passfd copying': passfdMemory('copied-262144'),
    'passfd copying into a slot': passfdMemory('placed-262144')
  }
} satisfies Row
