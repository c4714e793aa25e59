import { datagramLimits, queueLimits } from '../../src/datagram/options.ts'
import { test } from '../helpers/test.ts'

const invalid = { code: 'ERR_PASSFD_INVALID_ARGUMENT' }

test('the defaults', t => {
  t.deepEqual(datagramLimits({}), {
    maxQueued: 1048576,
    maxQueuedTotal: 16777216,
    maxQueuedDescriptors: 1024,
    maxMessage: 2097152,
    maxDescriptors: 253,
    maxUnclaimed: 1024,
    closeTimeout: 5000,
    pidfd: false,
    access: { mode: 0o600, owner: undefined, group: undefined }
  })
  t.deepEqual(queueLimits({}), { maxQueued: 1048576, maxQueuedTotal: 16777216, maxQueuedDescriptors: 1024 })
})

test('each option is taken at its bounds, and refused beyond them', t => {
  const ranges = {
    maxQueued: [1, 0x7fffffff],
    maxQueuedTotal: [1, 0x7fffffff],
    maxQueuedDescriptors: [0, 0x7fffffff],
    maxMessage: [0, 0x7fffffff],
    maxDescriptors: [0, 253],
    maxUnclaimed: [1, 0x7fffffff],
    closeTimeout: [1, 0x7fffffff],
    mode: [0, 0o777]
  } as const
  for (const [name, [min, max]] of Object.entries(ranges)) {
    for (const value of [min, max]) {
      const { access, ...others } = datagramLimits({ [name]: value })
      t.like({ ...others, mode: access.mode }, { [name]: value })
    }
    for (const value of [min - 1, max + 1, min + 0.5, `${min}`, null, Number.NaN])
      t.throws(() => datagramLimits({ [name]: value } as object), {
        ...invalid,
        message: new RegExp(`options\\.${name} `)
      })
  }
  for (const options of [{ authorize: 1 }, { signal: {} }]) t.throws(() => datagramLimits(options as object), invalid)
})
