import type { SideRow } from '../measure.ts'

export default {
  of: 'takeover',
  side: 'queued',
  what: 'in it nobody accepts, and the kernel queues new connections: from the call of freeze() to the commit',
  unit: 'ms',
  better: 'less',
  peers: ['100 connections', '1 connection'],
  bound: 5000
} satisfies SideRow
