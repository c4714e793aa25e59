import { z } from 'zod'
import { channelLimits, serverLimits, withUnclaimed } from '../../src/channel/options.ts'
import { connect, listen, pair } from '../../src/index.ts'
import { socketPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const INVALID = 'ERR_PASSFD_INVALID_ARGUMENT'
const MIB = 1048576
const TIME = 2 ** 31 - 1

/** As documented: default, least, most. */
const CHANNEL: Record<string, [fallback: number, min: number, max: number]> = {
  handshakeTimeout: [10_000, 0, TIME],
  requestTimeout: [30_000, 0, TIME],
  closeTimeout: [5_000, 1, TIME],
  frameTimeout: [30_000, 0, TIME],
  maxMessage: [2 * MIB, 1, 2 ** 32 - 1],
  maxDescriptors: [253, 0, 253],
  maxUnclaimed: [1024, 1, TIME],
  window: [4 * MIB, 1, 2 ** 32 - 1],
  maxPending: [1024, 1, TIME],
  maxQueued: [64 * MIB, 1, Number.MAX_SAFE_INTEGER],
  maxInFlight: [4096, 1, TIME],
  highWaterMark: [256 * 1024, 1, Number.MAX_SAFE_INTEGER],
  spin: [0, 0, 10_000]
}
const SERVER: Record<string, [fallback: number, min: number, max: number]> = {
  mode: [0o600, 0, 0o777],
  backlog: [511, 1, TIME],
  maxConnections: [1024, 1, TIME],
  maxConnectionsPerUser: [1024, 1, TIME],
  maxUnclaimedTotal: [500, 1, TIME]
}
const NO_NUMBERS = [null, '5', 5n, true, {}, [5], () => 5, Symbol('5'), Number.NaN, 1.5, Number.POSITIVE_INFINITY]
const DESCRIPTOR_LIMIT = 1001

test('the defaults of a channel are the documented ones', t => {
  const { descriptorCost, records, lendBuffers, ...limits } = channelLimits({})
  t.deepEqual({ ...limits }, Object.fromEntries(Object.entries(CHANNEL).map(([name, [fallback]]) => [name, fallback])))
  t.true(records)
  t.is(descriptorCost, (4 * MIB) / 1024)
})

test('the defaults of a server are the documented ones', t => {
  t.deepEqual(flatLimits({}), Object.fromEntries(Object.entries(SERVER).map(([name, [fallback]]) => [name, fallback])))
  t.is(serverLimits({ maxConnections: 7 }, DESCRIPTOR_LIMIT).maxConnectionsPerUser, 7, 'as many as maxConnections')
  t.is(serverLimits({ maxConnections: 7, maxConnectionsPerUser: 3 }, DESCRIPTOR_LIMIT).maxConnectionsPerUser, 3)
})

/** As the options are called. */
function flatLimits(given: object): object {
  const { access, ...others } = serverLimits(given, DESCRIPTOR_LIMIT)
  return { ...others, mode: access.mode }
}

for (const [what, options, limits] of [
  ['channel', CHANNEL, (given: object) => channelLimits(given)],
  ['server', SERVER, flatLimits]
] as const) {
  for (const [name, [fallback, min, max]] of Object.entries(options)) {
    test(`${what} option ${name}: from ${min} to ${max}`, t => {
      const used = (value: unknown): unknown => (limits({ [name]: value }) as unknown as Record<string, unknown>)[name]
      for (const value of [min, min + 1, max - 1, max]) t.is(used(value), value)
      t.is(used(undefined), fallback)
      for (const value of [min - 1, max + 1, -1, ...NO_NUMBERS]) {
        const error = t.throws(() => used(value), { code: INVALID }, String(value))
        t.true(error!.message.startsWith(`options.${name} must be an integer from ${min} to ${max}; it is `))
      }
    })
  }
}

test('options that are no numbers are checked too', t => {
  const schema = z.object({})
  for (const [name, good, wrong] of [
    ['schema', [schema, { '~standard': { validate() {} } }], [null, {}, { '~standard': {} }, () => {}, 'x', 1]],
    ['authorize', [() => true, async () => false], [null, true, {}, 'root']],
    ['signal', [new AbortController().signal], [null, new AbortController(), {}, true]],
    ['records', [true, false], [null, 0, 1, 'true', {}]],
    ['lendBuffers', [true, false], [null, 0, 1, 'true', {}]]
  ] as const) {
    for (const value of [...good, undefined]) t.notThrows(() => channelLimits({ [name]: value }), name)
    for (const value of wrong) {
      const error = t.throws(() => channelLimits({ [name]: value }), { code: INVALID }, `${name}: ${String(value)}`)
      t.true(error!.message.startsWith(`options.${name} must be `))
    }
  }
  t.is(channelLimits({ records: false }).records, false)
  t.is(channelLimits({}).lendBuffers, false)
  t.is(channelLimits({ lendBuffers: true }).lendBuffers, true)
})

test('options are an object', t => {
  for (const options of [null, 5, 'x', true, undefined]) {
    t.throws(() => channelLimits(options as never), { code: INVALID })
    t.throws(() => serverLimits(options as never, 1000), { code: INVALID })
  }
})

test('a descriptor costs so much that the window pays for no more than may be unclaimed', t => {
  for (const [window, unclaimed, cost] of [
    [1000, 10, 100],
    [1000, 3, 334],
    [1000, 1, 1000],
    [1000, 1000, 1],
    [1000, 5000, 1],
    [1, 1024, 1]
  ] as const) {
    t.is(channelLimits({ window, maxUnclaimed: unclaimed }).descriptorCost, cost)
    t.is(withUnclaimed(channelLimits({ window }), unclaimed).descriptorCost, cost)
    t.true(cost * unclaimed >= window)
  }
})

test('wrong options are refused by pair, connect and listen before anything is made', async t => {
  const path = socketPath()
  for (const options of [{ maxMessage: 0 }, { window: '1' }, { schema: {} }, null]) {
    t.throws(() => pair(options as never), { code: INVALID })
    await t.throwsAsync(async () => connect(path, options as never), { code: INVALID })
    await t.throwsAsync(async () => listen(path, options as never), { code: INVALID })
  }
  await t.throwsAsync(async () => listen(path, { mode: 0o1000 }), { code: INVALID })
  await t.throwsAsync(async () => connect(path), { code: 'ENOENT' }, 'nobody has listened there')
})
