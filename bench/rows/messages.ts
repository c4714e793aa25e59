import { floor, passfd, processSend, socketMsgpackr } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'small messages to a peer that negotiated no records',
  unit: 'messages/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('messages'),
  peers: {
    'C one a call': floor('messages'),
    'process.send': processSend('messages'),
    'process.send advanced': processSend('messages-advanced'),
    'net.Socket + msgpackr': socketMsgpackr('messages')
  }
} satisfies Row
