import type { SideRow } from '../measure.ts'

export default {
  of: 'take',
  side: 'take',
  what: 'in it Connection.take() alone',
  unit: 'µs',
  better: 'less',
  peers: []
} satisfies SideRow
