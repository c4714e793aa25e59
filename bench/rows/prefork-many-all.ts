import type { SideRow } from '../measure.ts'

export default {
  of: 'prefork-many',
  side: 'all',
  what: 'the CPU time of all processes in a second, while nothing happens',
  unit: 'µs',
  better: 'less',
  peers: ['8 workers', '1 worker', 'cluster, 64 workers']
} satisfies SideRow
