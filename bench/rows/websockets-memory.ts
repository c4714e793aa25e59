import type { SideRow } from '../measure.ts'

export default {
  of: 'websockets',
  side: 'memory',
  what: 'memory of the server for each connection, while its garbage is not collected',
  unit: 'bytes',
  better: 'less',
  peers: ['ws without passfd']
} satisfies SideRow
