import { memory } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'resident memory of a server for each of 2,000 open channels that have carried messages both ways',
  unit: 'bytes',
  better: 'less',
  placement: 'two cores',
  runs: 4,
  ours: memory('passfd'),
  peers: {
    'net.Socket': memory('socket'),
    'net.Socket + PackrStream': memory('socket-packr')
  },
  targets: { 'net.Socket': 1.2, 'net.Socket + PackrStream': 0.5 }
} satisfies Row
