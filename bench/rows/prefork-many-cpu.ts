import type { SideRow } from '../measure.ts'

export default {
  of: 'prefork-many',
  side: 'cpu',
  what: "the supervisor's CPU time in a second, while nothing happens",
  unit: 'µs',
  better: 'less',
  peers: ['8 workers', '1 worker', 'cluster, 64 workers'],
  bound: 10_000
} satisfies SideRow
