import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { expectTypeOf } from 'expect-type'
import { z } from 'zod'
import { validate } from '../../src/base/schema.ts'
import {
  type Channel,
  type ChannelServer,
  connect,
  Descriptor,
  listen,
  type Message,
  type PassfdError,
  pair
} from '../../src/index.ts'
import { closeAll, connected, file, nextMessage } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { test, until } from '../helpers/test.ts'

function code(name: string) {
  return { code: `ERR_PASSFD_${name}` }
}

const stored = z.object({ name: z.string(), file: z.instanceof(Descriptor) })

/** A schema by hand. */
function schema<T>(check: (value: any) => StandardSchemaV1.Result<T> | Promise<StandardSchemaV1.Result<T>>) {
  return { '~standard': { version: 1, vendor: 'test', validate: check } } as StandardSchemaV1<unknown, T>
}

/** Lets numbers through when told to, in the order in which it is told. */
function slowSchema() {
  const waiting = new Map<unknown, () => void>()
  const check = (value: unknown) =>
    new Promise<StandardSchemaV1.Result<number>>(resolve => {
      const result = typeof value === 'number' ? { value: value * 10 } : { issues: [{ message: 'not a number' }] }
      waiting.set(value, () => resolve(result as StandardSchemaV1.Result<number>))
    })
  return { waiting, schema: schema(check) }
}

test('a schema gives incoming messages their type, their defaults and their transformations', async t => {
  const server = await listen(socketPath(), {
    schema: z.object({ count: z.number().default(7), list: z.string().transform(text => text.split(',')) })
  })
  server.serve(({ value }) => {
    expectTypeOf(value).toEqualTypeOf<{ count: number; list: string[] }>()
    return value
  })
  const channel = await connect<unknown, unknown>(server.address)
  t.deepEqual(await channel.request({ list: 'a,b' }), { count: 7, list: ['a', 'b'] })
  await channel.close()
  await server.close()
})

test('descriptors have their place in a schema', async t => {
  const server = await listen(socketPath(), { schema: stored })
  server.serve(({ value }) => {
    expectTypeOf(value.file).toEqualTypeOf<Descriptor>()
    return { name: value.name, kind: value.file.kind }
  })
  const channel = await connect<unknown, unknown>(server.address)
  t.deepEqual(await channel.request({ name: 'null', file: file() }), { name: 'null', kind: 'device' })
  await channel.close()
  await server.close()
})

test('a request that fails the schema is answered with a fault that lists the issues', async t => {
  const [left, right] = await connected({}, { schema: stored })
  right.serve(() => t.fail('it must not be delivered'))
  const error: any = await t.throwsAsync(left.request({ name: 7, file: [file()] }), code('REMOTE'))
  t.is(error.remote.code, 'ERR_PASSFD_SCHEMA')
  t.deepEqual(
    error.remote.data.issues.map(({ path }: { path: string[] }) => path),
    [['name'], ['file']]
  )
  t.regex(error.remote.message, /name: .*expected string/)
  // Not fatal, and the descriptors are closed
  const again: any = await t.throwsAsync(left.request('again'), code('REMOTE'))
  t.is(again.remote.code, 'ERR_PASSFD_SCHEMA')
  await closeAll(left, right)
  t.is(await left.closed, undefined)
})

test('a plain message that fails the schema goes to onError', async t => {
  const [left, right] = await connected({}, { schema: z.number() })
  const told: [PassfdError, Message<number>][] = []
  right.serve(({ value }) => value + 1, { onError: (...given) => told.push(given as never) })
  left.send({ file: file() })
  t.is(await left.request(1), 2)
  const [error, message] = told[0]!
  t.is(error.code, 'ERR_PASSFD_SCHEMA')
  t.true(Array.isArray((error.data as { issues: unknown[] }).issues))
  t.is(message.descriptors.length, 1)
  t.true(message.descriptors[0]!.closed)
  t.is(told.length, 1)
  await closeAll(left, right)
})

test('a plain message that fails the schema, without onError, ends the channel', async t => {
  for (const consume of ['serve', 'iterate', 'listen']) {
    const [left, right] = await connected({}, { schema: z.number() })
    if (consume === 'serve') right.serve(() => {})
    else if (consume === 'listen') right.on('message', () => {})
    else void right[Symbol.asyncIterator]().next()
    left.send({ file: file() })
    t.is(((await right.closed) as PassfdError).code, 'ERR_PASSFD_SCHEMA')
    t.is(((await left.closed) as PassfdError).remote!.code, 'ERR_PASSFD_SCHEMA')
  }
})

test('a schema that takes its time keeps the order', async t => {
  const slow = slowSchema()
  const [left, right] = await connected({}, { schema: slow.schema })
  const seen: unknown[] = []
  right.serve(({ value }) => void seen.push(value))
  for (const value of [1, 2, 3]) left.send(value)
  await until(() => slow.waiting.size === 3, 'the checks')
  for (const value of [3, 2]) slow.waiting.get(value)!()
  await turn()
  t.deepEqual(seen, [])
  slow.waiting.get(1)!()
  await until(() => seen.length === 3, 'the messages')
  t.deepEqual(seen, [10, 20, 30])
  await closeAll(left, right)
})

test('a schema that takes its time holds up the consumer, not the channel', async t => {
  const slow = slowSchema()
  const [left, right] = await connected({}, { schema: slow.schema })
  left.serve(({ value }) => value)
  const iterator = right[Symbol.asyncIterator]()
  const first = iterator.next()
  left.send(1)
  await until(() => slow.waiting.size === 1, 'the check')
  t.is(await right.request('meanwhile'), 'meanwhile')
  await left.close()
  slow.waiting.get(1)!()
  t.is((await first).value.value, 10)
  t.true((await iterator.next()).done)
})

test('a message whose check is under way when the channel is destroyed is dropped', async t => {
  const slow = slowSchema()
  const [left, right] = await connected({}, { schema: slow.schema })
  right.serve(() => t.fail('it was dropped'))
  left.send(1)
  await until(() => slow.waiting.size === 1, 'the check')
  right.destroy()
  slow.waiting.get(1)!()
  await turn()
  await left.closed
})

const broken: [string, StandardSchemaV1<unknown, unknown>][] = [
  [
    'throws',
    schema(() => {
      throw new Error('broken')
    })
  ],
  ['rejects', schema(() => Promise.reject(new Error('broken')))]
]

for (const [how, given] of broken)
  test(`a schema that ${how} refuses the value`, async t => {
    const [left, right] = await connected({}, { schema: given })
    right.serve(() => t.fail('it must not be delivered'))
    const error: any = await t.throwsAsync(left.request(file()), code('REMOTE'))
    t.deepEqual([error.remote.code, error.remote.data], ['ERR_PASSFD_SCHEMA', undefined])
    await closeAll(left, right)
  })

test('issues: paths of keys, indexes and segments, and none', async t => {
  const issues = [{ message: 'whole' }, { message: 'deep', path: ['list', 3, { key: 'name' }, Symbol.for('last')] }]
  const result = await validate(
    schema(() => ({ issues })),
    1
  )
  const { error } = result as { error: PassfdError }
  t.is(error.message, 'The value does not fit the schema: whole; list.3.name.Symbol(last): deep')
  t.deepEqual(error.data, {
    issues: [
      { message: 'whole', path: [] },
      { message: 'deep', path: ['list', '3', 'name', 'Symbol(last)'] }
    ]
  })
})

// --- answers

test('an answer is checked by the request’s schema, and typed by it', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  const answer = await left.request({ name: 'x', file: file() }, { schema: stored })
  expectTypeOf(answer).toEqualTypeOf<{ name: string; file: Descriptor }>()
  t.is(answer.file.kind, 'device')
  answer.file.close()
  t.is(await left.request('1,2', { schema: z.string().transform(text => text.length) }), 3)
  const slow = slowSchema()
  const later = left.request(4, { schema: slow.schema })
  await until(() => slow.waiting.size === 1, 'the check')
  slow.waiting.get(4)!()
  t.is(await later, 40)
  await closeAll(left, right)
})

test('an answer that fails the request’s schema rejects, and its descriptors are closed', async t => {
  const [left, right] = await connected()
  right.serve(({ value }) => value)
  const slow = slowSchema()
  for (const given of [z.number(), slow.schema, ...broken.map(([, each]) => each)]) {
    const asking = left.request([file()], { schema: given as StandardSchemaV1<unknown, unknown> })
    if (given === slow.schema) {
      await until(() => slow.waiting.size === 1, 'the check')
      for (const finish of slow.waiting.values()) finish()
    }
    const error = await t.throwsAsync(asking, code('SCHEMA'))
    t.is((error as PassfdError).remote, undefined)
  }
  t.is(await left.request('still there'), 'still there')
  await closeAll(left, right)
})

test('of an answer everything stays open that the checked value holds; the rest is closed, and says so', async t => {
  class Store {
    readonly #hidden: Descriptor
    readonly shown: Descriptor
    constructor({ a, b }: { a: Descriptor; b: Descriptor }) {
      this.#hidden = a
      this.shown = b
    }
    get hidden() {
      return this.#hidden
    }
  }
  const emitter = (value: any) => Object.assign(new EventEmitter(), { file: value.b })
  type Check = [make: (value: any) => unknown, open: (result: any) => Descriptor[]]
  const checks: Record<string, Check> = {
    'all as it was': [value => value, ({ a, b, list }) => [a, b, list[0]]],
    'a key is left out': [({ b, list }) => ({ b, list }), ({ b, list }) => [b, list[0]]],
    'a default of a schema library': [value => z.object({ b: z.instanceof(Descriptor) }).parse(value), ({ b }) => [b]],
    'a list is emptied': [({ a, b }) => ({ a, b, list: [] }), ({ a, b }) => [a, b]],
    'only a number': [() => 7, () => []],
    'a Map, a Set, a symbol': [
      ({ a, b, list }) => ({ map: new Map([[a, 1]]), set: new Set([b]), [Symbol.for('file')]: list[0] }),
      ({ map, set, ...rest }) => [...map.keys(), ...set, rest[Symbol.for('file')]]
    ],
    'a class, one in a private field': [value => new Store(value), store => [store.shown]],
    'the same, claimed': [value => new Store({ ...value, a: value.a.claim() }), store => [store.shown, store.hidden]],
    'an EventEmitter': [emitter, ({ file }) => [file]],
    'a promise of it': [async value => ({ a: value.a }), ({ a }) => [a]],
    'behind a large list': [
      ({ a, ...rest }) => [Array.from({ length: 50_000 }, () => 1), { rest }, a],
      ([, { rest }, a]) => [a, rest.b, rest.list[0]]
    ] // prettier-ignore
  }
  const [left, right] = await connected()
  right.serve(() => ({ a: file(), b: file(), list: [file()] }))
  for (const [what, [make, open]] of Object.entries(checks))
    for (const later of [false, true]) {
      const all: Descriptor[] = []
      const check = (value: any) => {
        all.push(value.a, value.b, value.list[0])
        return { value: make(value) }
      }
      const given = schema(value => (later ? turn().then(() => check(value)) : check(value)))
      const result = await left.request(null, { descriptors: 3, schema: given })
      const kept = open(result)
      for (const each of kept) {
        t.false(each.closed, what)
        each.close()
      }
      for (const each of all.filter(each => !kept.includes(each)))
        t.throws(() => each.borrow(), { ...code('DESCRIPTOR_UNCLAIMED'), message: /in a reply .* its schema/ }, what)
    }
  const used = schema(({ a }) => ({ value: a.toFile() }))
  const opened: any = await left.request(null, { descriptors: 3, schema: used })
  await opened.close()
  const rejected = schema(() => ({ value: Promise.reject(new Error('no')) }))
  await t.throwsAsync(left.request(null, { descriptors: 3, schema: rejected }), { message: 'no' })
  await closeAll(left, right)
})

test('of a message, too, what the checked value leaves out is closed at the end of its scope', async t => {
  const [left, right] = await connected({}, { schema: z.object({ b: z.instanceof(Descriptor) }) as never })
  const seen: Descriptor[] = []
  right.serve(({ value, descriptors }: any) => {
    seen.push(...descriptors)
    value.b.claim()
    return Object.keys(value)
  })
  t.deepEqual(await left.request({ a: file(), b: file() }), ['b'])
  t.deepEqual(
    seen.map(({ closed }) => closed),
    [true, false]
  )
  seen[1]!.close()
  await closeAll(left, right)
})

test('what is no schema is refused', async t => {
  const [left, right] = await connected()
  for (const wrong of [null, {}, { '~standard': {} }, 'string']) {
    t.throws(() => pair({ schema: wrong as never }), code('INVALID_ARGUMENT'))
    await t.throwsAsync(listen(socketPath(), { schema: wrong as never }), code('INVALID_ARGUMENT'))
  }
  await closeAll(left, right)
})

// --- types

test('types follow the schema', async t => {
  const server = await listen(socketPath(), { schema: stored })
  expectTypeOf(server).toEqualTypeOf<ChannelServer<{ name: string; file: Descriptor }, unknown>>()
  const accepted = once(server, 'channel')
  const channel = await connect(server.address, { schema: z.literal('hello') })
  expectTypeOf(channel).toEqualTypeOf<Channel<'hello', unknown>>()
  const [other] = await accepted
  other.send('hello')
  const { value } = await nextMessage(channel)
  t.is(value, 'hello')
  const [mine, end] = pair({ schema: z.object({ n: z.number() }) })
  expectTypeOf(mine).toEqualTypeOf<Channel<{ n: number }, unknown>>()
  mine.destroy()
  end.close()
  const typed = channel as Channel<'hello', { n: number }>
  expectTypeOf(typed.send).parameter(0).toEqualTypeOf<{ n: number }>()
  expectTypeOf(typed.request<string>).returns.toEqualTypeOf<Promise<string>>()
  expectTypeOf(channel.request({})).toEqualTypeOf<Promise<unknown>>()
  await closeAll(channel, server)
})
