import { datagrams, floor } from '../contenders.ts'
import type { Row } from '../measure.ts'

export default {
  what: 'datagrams of 64 bytes, one way',
  unit: 'datagrams/s',
  better: 'more',
  placement: 'two cores',
  ours: datagrams('passfd'),
  peers: {
    'C one a call': floor('datagrams'),
    'unix-dgram': datagrams('unix-dgram'),
    'passfd, by name': datagrams('passfd-by-name')
  },
  targets: { 'unix-dgram': 1 }
} satisfies Row
