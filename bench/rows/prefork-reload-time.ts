import type { SideRow } from '../measure.ts'

export default {
  of: 'prefork-reload',
  side: 'took',
  what: 'until all workers have been replaced',
  unit: 'ms',
  better: 'less',
  peers: ['cluster round robin', 'cluster SCHED_NONE', 'pm2 reload']
} satisfies SideRow
