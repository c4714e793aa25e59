import { floor, messagePort, passfd, processSend, socketMsgpackr } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '1 MiB Buffers, one way',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('bulk'),
  peers: {
    'C copy': floor('copy'),
    'process.send advanced': processSend('bulk-advanced'),
    'net.Socket + msgpackr': socketMsgpackr('bulk'),
    MessagePort: messagePort('bulk')
  },
  targets: { 'C copy': 0.55, 'net.Socket + msgpackr': 2.5 }
} satisfies Row
