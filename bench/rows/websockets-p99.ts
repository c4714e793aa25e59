import type { SideRow } from '../measure.ts'

export default {
  of: 'websockets',
  side: 'p99',
  what: 'the time until an echo, 99th percentile',
  unit: 'µs',
  better: 'less',
  peers: ['ws without passfd']
} satisfies SideRow
