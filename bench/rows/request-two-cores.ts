import { floor, messagePort, nodeIpc, passfd, processSend, socketMsgpackr, unixDgram, usocket } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'the same with a core for each end, which sleeps meanwhile',
  unit: 'µs',
  better: 'less',
  placement: 'two cores',
  ours: passfd('request'),
  peers: {
    'C epoll': floor('round-trip'),
    'process.send': processSend('request'),
    'process.send advanced': processSend('request-advanced'),
    'net.Socket + msgpackr': socketMsgpackr('request'),
    MessagePort: messagePort('request'),
    usocket: usocket('request'),
    'node-ipc': nodeIpc('request'),
    'unix-dgram': unixDgram('request')
  },
  targets: { 'C epoll': 1.25, MessagePort: 1.1 }
} satisfies Row
