import { arrivedIn, MARK, plain, withDescriptors } from '../../../src/cli/shell/values.ts'
import { Connection, Descriptor } from '../../../src/index.ts'
import { test } from '../../helpers/test.ts'

test('descriptors are named by their places, each differently', t => {
  const all = Array.from({ length: 6 }, () => Descriptor.memfd())
  const [log, deep, listed, inMap, dotted, inSet] = all as [Descriptor, ...Descriptor[]] as Descriptor[]
  const value = {
    log,
    a: { b: deep },
    list: [1, listed],
    map: new Map([['key', inMap]]),
    'a.b': dotted,
    set: new Set([inSet])
  }
  const arrived = arrivedIn(value)
  t.deepEqual(
    [...arrived.values()].map(({ name }) => name),
    ['log', 'a.b', 'list.1', 'map.key', 'a.b-2', 'set.0']
  )
  t.deepEqual(
    [...arrivedIn(log).values()].map(({ name }) => name),
    ['value']
  )
  t.is(arrivedIn('text').size, 0)
  for (const each of all) each.close()
})

test('a Connection is named, too, with the bytes that were read from it', t => {
  const [one, other] = Descriptor.socketpair()
  const connection = new Connection(one, Buffer.from('GET'))
  const value = { connection }
  const arrived = arrivedIn(value)
  t.deepEqual(
    plain(value, arrived, ({ descriptor }) => ({ kind: descriptor.kind })),
    {
      connection: { [MARK]: { name: 'connection', kind: 'unix-stream', head: 'R0VU' } }
    }
  )
  connection.close()
  other.close()
})

test('what JSON lacks becomes an object with one key', t => {
  const circle: { self?: unknown } = {}
  circle.self = circle
  const shared = { x: 1 }
  const value = {
    bytes: Buffer.from('hi'),
    floats: new Float32Array([1]),
    big: 2n ** 70n,
    nothing: undefined,
    infinite: Number.NEGATIVE_INFINITY,
    date: new Date(0),
    never: new Date(Number.NaN),
    map: new Map<unknown, unknown>([[1, 'one']]),
    set: new Set([1]),
    error: new RangeError('no'),
    expression: /x/g,
    list: [shared, shared, undefined],
    circle
  }
  t.deepEqual(JSON.parse(JSON.stringify(plain(value, new Map(), () => ({})))), {
    bytes: { $bytes: 'aGk=' },
    floats: { $bytes: 'AACAPw==' },
    big: { $bigint: '1180591620717411303424' },
    nothing: null,
    infinite: { $number: '-Infinity' },
    date: { $date: '1970-01-01T00:00:00.000Z' },
    never: { $date: null },
    map: { $map: [[1, 'one']] },
    set: { $set: [1] },
    error: { $error: { name: 'RangeError', message: 'no' } },
    expression: { $regexp: '/x/g' },
    list: [{ x: 1 }, { x: 1 }, null],
    circle: { self: { $circular: true } }
  })
  const own = JSON.parse('{"__proto__": 7}')
  t.is(JSON.stringify(plain(own, new Map(), () => ({}))), '{"__proto__":7}')
})

test('descriptors to be sent stand at their places, or at the top', t => {
  const [log, deep] = [Descriptor.memfd(), Descriptor.memfd()]
  const all = new Map([
    ['log', log],
    ['deep', deep]
  ])
  const whole = withDescriptors({ job: 7, list: [{ [MARK]: 'deep' }] }, all) as { list: unknown[]; log: unknown }
  t.is(whole.list[0], deep)
  t.is(whole.log, log)
  t.is(withDescriptors({ [MARK]: 'log' }, new Map([['log', log]])), log)
  t.is(withDescriptors('text', new Map()), 'text')
  for (const [value, expected] of [
    [[], /no place for the descriptor "log"/],
    [{ log: 1, x: { [MARK]: 'deep' } }, /a property "log" already/],
    [{ x: { [MARK]: 'other' } }, /a descriptor "other", and there is none/],
    [[{ [MARK]: 'log' }, { [MARK]: 'log' }], /"log" twice/]
  ] as const)
    t.regex(t.throws(() => withDescriptors(value, all)).message, expected)
  for (const each of [log, deep]) each.close()
})
