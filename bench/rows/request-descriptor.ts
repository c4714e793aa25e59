import { floor, passfd, processSend, python, usocket } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'a request with one descriptor and its reply, one at a time, median',
  unit: 'µs',
  better: 'less',
  placement: 'one core',
  ours: passfd('request-descriptor'),
  peers: {
    'C epoll': floor('round-trip', '1'),
    'process.send handle': processSend('request-descriptor'),
    usocket: usocket('request-descriptor'),
    Python: python('request-descriptor')
  },
  targets: { 'C epoll': 2.2, 'process.send handle': 0.5 }
} satisfies Row
