import type { SideRow } from '../measure.ts'

export default {
  of: 'prefork-dispatch',
  side: 'cpu',
  what: "the parent's CPU time for a connection",
  unit: 'µs',
  better: 'less',
  peers: ['cluster round robin', 'pm2', 'net.Server + send', 'process.send handle'],
  targets: { 'cluster round robin': 0.2 }
} satisfies SideRow
