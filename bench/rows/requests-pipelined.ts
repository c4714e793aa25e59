import { messagePort, nodeIpc, passfd, processSend, socketMsgpackr, usocket } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'small requests and their replies, 100 in flight',
  unit: 'requests/s',
  better: 'more',
  placement: 'two cores',
  ours: passfd('requests-pipelined'),
  peers: {
    'one at a time': passfd('requests-one-at-a-time'),
    'process.send': processSend('requests-pipelined'),
    'process.send advanced': processSend('requests-pipelined-advanced'),
    'net.Socket + msgpackr': socketMsgpackr('requests-pipelined'),
    MessagePort: messagePort('requests-pipelined'),
    usocket: usocket('requests-pipelined'),
    'node-ipc': nodeIpc('requests-pipelined')
  },
  targets: { 'one at a time': 8 }
} satisfies Row
