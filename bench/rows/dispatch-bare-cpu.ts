import type { SideRow } from '../measure.ts'

export default {
  of: 'dispatch-bare',
  side: 'cpu',
  what: "the parent's CPU time for a connection",
  unit: 'µs',
  better: 'less',
  peers: ['net.Server + send', 'process.send handle', 'cluster round robin']
} satisfies SideRow
