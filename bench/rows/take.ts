import { floor, passfd, take } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: "a live TCP connection moves to another process's server, one at a time, median",
  unit: 'µs',
  better: 'less',
  placement: 'one core',
  // There are few moves in a second, so V8 takes seconds to compile what each of them runs once
  warmUp: 4800,
  ours: take('passfd'),
  peers: {
    'C sendmsg, recvmsg': floor('round-trip', '1'),
    'process.send handle': take('process-send'),
    'passfd, a bare descriptor': passfd('request-descriptor')
  },
  targets: { 'process.send handle': 1 }
} satisfies Row
