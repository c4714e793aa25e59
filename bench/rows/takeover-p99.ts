import { takeover } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'HTTP requests to a program that is replaced by itself again and again, a connection for each, 99th percentile',
  unit: 'µs',
  better: 'less',
  placement: 'sharing two cores',
  runs: 4,
  ours: takeover('requests'),
  peers: {
    'successors that give up': takeover('requests-boot'),
    'without a takeover': takeover('requests-quiet')
  }
} satisfies Row
