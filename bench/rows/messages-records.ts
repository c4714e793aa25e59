import { floor, passfd, processSend, socketMsgpackr } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'small messages between two passfd ends, as by default',
  unit: 'messages/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('messages-records'),
  peers: {
    'C one a call': floor('messages'),
    'process.send': processSend('messages'),
    'net.Socket + msgpackr': socketMsgpackr('messages')
  },
  targets: { 'C one a call': 4, 'net.Socket + msgpackr': 2.5 }
} satisfies Row
