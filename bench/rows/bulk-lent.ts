import { floor, passfd, socketMsgpackr } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: '1 MiB Buffers, one way, lent to the handler (lendBuffers)',
  unit: 'GB/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('bulk-lent'),
  peers: {
    'C copy': floor('copy'),
    'passfd copying': passfd('bulk'),
    'net.Socket + msgpackr': socketMsgpackr('bulk')
  }
} satisfies Row
