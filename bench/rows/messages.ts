import {
  floor,
  messagePort,
  nodeIpc,
  packrStream,
  passfd,
  processSend,
  socketMsgpackr,
  unixDgram,
  usocket
} from '../contenders.ts'
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
    'net.Socket + msgpackr': socketMsgpackr('messages'),
    'net.Socket + PackrStream': packrStream('messages'),
    MessagePort: messagePort('messages'),
    usocket: usocket('messages'),
    'node-ipc': nodeIpc('messages'),
    'unix-dgram': unixDgram('messages')
  },
  targets: { 'C one a call': 2, 'process.send': 4.5, 'net.Socket + msgpackr': 1.3 }
} satisfies Row
