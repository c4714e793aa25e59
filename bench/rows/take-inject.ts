import type { SideRow } from '../measure.ts'

export default {
  of: 'take',
  side: 'inject',
  what: 'in it injectInto() alone',
  unit: 'µs',
  better: 'less',
  peers: []
} satisfies SideRow
