import type { SideRow } from '../measure.ts'

export default {
  of: 'growth-workers-rate',
  side: 'cpu',
  what: "the parent's CPU time for a connection that it passes on to one of 64 workers",
  unit: 'µs',
  better: 'less',
  peers: ['2 workers', '8 workers', 'cluster round robin, 64'],
  targets: { '2 workers': 1.5, 'cluster round robin, 64': 0.5 }
} satisfies SideRow
