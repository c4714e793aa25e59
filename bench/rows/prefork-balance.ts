import type { SideRow } from '../measure.ts'

export default {
  of: 'prefork-keepalive',
  side: 'busiest',
  what: "the busiest of two workers' share of the requests",
  unit: '%',
  better: 'less',
  peers: ['passfd shared', 'passfd dispatch', 'cluster round robin', 'cluster SCHED_NONE', 'pm2'],
  bound: 58
} satisfies SideRow
