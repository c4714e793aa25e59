import type { SideRow } from '../measure.ts'

export default {
  of: 'prefork-reload',
  side: 'slowest',
  what: 'the slowest of these requests',
  unit: 'ms',
  better: 'less',
  peers: ['cluster round robin', 'cluster SCHED_NONE', 'pm2 reload', 'passfd without a reload']
} satisfies SideRow
