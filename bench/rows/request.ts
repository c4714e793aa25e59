import { floor, messagePort, nodeIpc, passfd, processSend, socketMsgpackr, unixDgram, usocket } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a small request and its reply, one at a time, median',
  unit: 'µs',
  better: 'less',
  placement: 'one core',
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
  targets: { 'C epoll': 1.9, 'net.Socket + msgpackr': 0.9, 'process.send': 0.7 }
} satisfies Row
