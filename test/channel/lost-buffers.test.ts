/** Binary values of 64 KiB or more that the program takes away after send() and before they have left: only their message suffers. */
import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, Connection, connect, Descriptor, pair, type Returned } from '../../src/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { times } from '../helpers/full.ts'
import { Random } from '../helpers/random.ts'
import { deafPair, rawPair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const SIZE = 100_000
const LOST = { code: 'ERR_PASSFD_ENCODE', message: /transferred or detached before it had left/ }

/** Ways to take the memory of a view away. */
const losses: Record<string, () => { bytes: Uint8Array; lose(): void }> = {
  'structuredClone()': () => {
    const bytes = new Uint8Array(SIZE)
    return { bytes, lose: () => void structuredClone(bytes.buffer, { transfer: [bytes.buffer] }) }
  },
  'postMessage()': () => {
    const bytes = new Uint8Array(SIZE)
    const { port1, port2 } = new MessageChannel()
    return {
      bytes,
      lose: () => {
        port1.postMessage(bytes.buffer, [bytes.buffer])
        port1.close()
        port2.close()
      }
    }
  },
  'memory.grow()': () => {
    const memory = new (globalThis as any).WebAssembly.Memory({ initial: 2 })
    return { bytes: new Uint8Array(memory.buffer), lose: () => void memory.grow(1) }
  }
}

function collect(channel: Channel<any, any>): Returned<any>[] {
  const returned: Returned<any>[] = []
  channel.on('returned', each => void returned.push(each.claim()))
  return returned
}

/** Messages that fill the socket, so that what follows waits. */
function fill(channel: Channel<any, any>): void {
  for (let i = 0; i < 2; i++) channel.send({ filler: Buffer.alloc(1_500_000) })
}

const codeOf = (promise: Promise<unknown>): Promise<any> =>
  promise.then(
    () => undefined,
    error => error
  )

for (const [how, make] of Object.entries(losses))
  for (const records of [true, false])
    test(`a message, a request and an answer, ${how}, records: ${records}`, async t => {
      const [left, right] = await connected({ records })
      const returned = collect(left)
      const answers = collect(right)
      const arrived: unknown[] = []
      const failed: any[] = []
      let answer = make()
      right.serve(
        ({ value, isRequest }) => {
          if (value.n !== undefined) arrived.push(value.n)
          if (!isRequest) return
          fill(right)
          answer = make()
          setImmediate(() => answer.lose())
          return { answer: answer.bytes, shape: { of: 'answer' } }
        },
        { onError: error => void failed.push(error) }
      )
      left.on('message', () => {})
      fill(left)
      const [plain, second, request] = [make(), make(), make()]
      const descriptor = file()
      const sent = [
        left.send({ n: 1, plain: plain.bytes, shape: { of: 1 } }),
        left.send({ n: 2, also: [second.bytes, new Uint8Array(SIZE)], descriptor, shape: { of: 2 } }),
        left.request({ n: 3, request: request.bytes, other: { shape: 3 } })
      ].map(codeOf)
      const kept = left.request({ n: 4, file: file(), whole: new Uint8Array(SIZE).fill(7), shape: { of: 4 } })
      left.send({ n: 5, shape: { of: 5 }, other: { shape: 3 } })
      for (const { lose } of [plain, second, request]) lose()
      for (const error of await Promise.all(sent)) t.like(error, { code: LOST.code })
      t.regex((await sent[0]).message, LOST.message)
      t.is((await codeOf(kept)).remote?.code, LOST.code)
      await until(() => arrived.length === 2 && returned.length === 2 && failed.length === 1, 'all')
      t.deepEqual(arrived, [4, 5])
      t.deepEqual(
        returned.map(({ state, value, error }) => [state, value.n, (error as any).code]),
        [
          ['unsent', 1, LOST.code],
          ['unsent', 2, LOST.code]
        ]
      )
      t.deepEqual([returned[0]!.descriptors, returned[1]!.descriptors], [[], [descriptor]])
      t.is(answers.length, 1)
      t.is(failed[0].code, LOST.code)
      t.false(descriptor.closed)
      descriptor.close()
      await closeAll(left, right)
      t.deepEqual([await left.closed, await right.closed], [undefined, undefined])
    })

test('random messages, some of which lose their buffers at any time', async t => {
  for (let seed = 1; seed <= times(4, 200); seed++) {
    const random = new Random(seed)
    const [left, right] = await connected(random.chance(0.3) ? { window: 300_000 } : {}, {
      records: random.chance(0.7)
    })
    const returned = collect(left)
    const arrived: number[] = []
    right.on('message', ({ value }) => {
      arrived.push(value.n)
      for (const bytes of value.list ?? [])
        if (bytes.some((byte: number) => byte !== value.n)) t.fail(`${seed}: spoilt`)
    })
    fill(left)
    const all: number[] = []
    const outcomes: Promise<void>[] = []
    const losable: { n: number; lose(): void }[] = []
    for (let n = 1; n < 30; n++) {
      const list = Array.from({ length: random.integer(0, 3) }, () => new Uint8Array(SIZE).fill(n))
      const value = {
        n,
        list,
        [`key${random.integer(0, 9)}`]: { n },
        ...(random.chance(0.4) ? { d: file() } : {})
      }
      outcomes.push(
        left.send(value).then(
          () => void all.push(n),
          error => void t.like(error, { code: LOST.code })
        )
      )
      const [first] = list
      // What waits behind so much has not begun to leave
      if (first !== undefined && random.chance(0.3))
        losable.push({ n, lose: () => void structuredClone(first.buffer, { transfer: [first.buffer] }) })
    }
    for (const { lose } of losable) lose()
    await Promise.all(outcomes)
    const lost = losable.map(({ n }) => n)
    await until(() => arrived.length === 31 - lost.length && returned.length === lost.length, `all (${seed})`)
    t.deepEqual(
      returned.map(({ value }) => value.n),
      lost,
      `seed ${seed}`
    )
    t.deepEqual(
      all.filter(n => lost.includes(n)),
      []
    )
    for (const { descriptors } of returned) for (const each of descriptors) each.close()
    await closeAll(left, right)
    t.is(await left.closed, undefined)
  }
})

test('a frame of which a part has left: the channel ends, and says why', async t => {
  const { channel, peer } = await deafPair()
  const returned = collect(channel)
  const bytes = new Uint8Array(4 << 20)
  const descriptor = file()
  const sent = codeOf(channel.send({ bytes: bytes.subarray(0, 2_000_000), descriptor }))
  await turn()
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
  peer.start()
  const error: any = await channel.closed
  t.is(error.code, LOST.code)
  t.is((await sent).code, 'ERR_PASSFD_CLOSED')
  t.is((await sent).cause, error)
  t.is(returned[0]!.state, 'unconfirmed')
  descriptor.close()
  peer.close()
})

test('bytes that have left already may go while others of the same message wait', async t => {
  const [left, right] = await connected()
  const first = new Uint8Array(70_000).fill(1)
  left.send([first, new Uint8Array(1_800_000).fill(2)])
  await turn()
  structuredClone(first.buffer, { transfer: [first.buffer] })
  const arrived = await new Promise<any>(resolve => right.once('message', ({ value }) => resolve(value)))
  t.deepEqual([arrived[0][0], arrived[0][69_999], arrived[1][1_799_999]], [1, 1, 2])
  await closeAll(left, right)
})

test('a resizable buffer that shrinks, and an ArrayBuffer, arrive as they were', async t => {
  const [left, right] = await connected()
  fill(left)
  const buffer = new (ArrayBuffer as any)(SIZE, { maxByteLength: SIZE }) as ArrayBuffer & { resize(size: number): void }
  const whole = new ArrayBuffer(SIZE)
  left.send([new Uint8Array(buffer).fill(5), new Uint8Array(buffer, 10, 70_000), whole])
  buffer.resize(0)
  structuredClone(whole, { transfer: [whole] })
  const values: any[] = []
  right.on('message', ({ value }) => void values.push(value))
  await until(() => values.length === 3, 'them')
  t.deepEqual([values[2][0].length, values[2][1].length, values[2][2].byteLength], [SIZE, 70_000, SIZE])
  t.true(values[2][0].every((byte: number) => byte === 5))
  await closeAll(left, right)
})

for (const [how, make] of Object.entries(losses))
  for (const options of [{}, { records: false }])
    test(`while it waits for the hello, ${how}, ${JSON.stringify(options)}`, async t => {
      const [left, end] = pair<any, any>()
      const returned = collect(left)
      const lost = Array.from({ length: 5 }, make)
      const [one, two, three, four, five] = lost.map(({ bytes }) => bytes) as [Uint8Array, ...Uint8Array[]] as any
      const [socket, other] = Descriptor.socketpair()
      const connection = new Connection(socket, five)
      const descriptors = [file(), file()]
      const sent = [
        left.send({ n: 1, list: [one, 'x'] }),
        left.send({ n: 2, map: new Map([['bytes', two]]), descriptor: descriptors[0] }),
        left.request({ n: 3, three }),
        left.request({ n: 4, four, descriptor: descriptors[1] })
      ].map(codeOf)
      left.send({ n: 5, connection }) // its bytes are a copy
      const whole = left.send({ n: 6, whole: new Uint8Array(SIZE).fill(6), file: file() })
      for (const { lose } of lost) lose()
      left.send({ n: 7 })
      const right = await connect<any, any>(end, options)
      const arrived: any[] = []
      right.on('message', ({ value }) => void arrived.push(value))
      for (const promise of sent) t.like(await promise, { code: LOST.code })
      t.regex((await sent[0]).message, LOST.message)
      await whole
      await until(() => arrived.length === 3 && returned.length === 3, 'all')
      t.deepEqual(
        arrived.map(({ n, whole }) => [n, whole?.length, whole?.every((byte: number) => byte === 6)]),
        [
          [5, undefined, undefined],
          [6, SIZE, true],
          [7, undefined, undefined]
        ]
      )
      t.deepEqual(
        returned.map(({ state, value, error, descriptors }) => [
          value.n,
          state,
          (error as any)?.code,
          descriptors.length
        ]),
        [
          [1, 'unsent', LOST.code, 0],
          [2, 'unsent', LOST.code, 1],
          [4, 'unsent', LOST.code, 1]
        ]
      )
      for (const each of descriptors) {
        t.false(each.closed)
        each.close()
      }
      other.close()
      await closeAll(left, right)
      t.deepEqual([await left.closed, await right.closed], [undefined, undefined])
    })

test('while it waits for credit', async t => {
  const { channel, peer } = await rawPair({}, { window: 10, features: [] })
  const returned = collect(channel)
  channel.send(['takes all credit'])
  const bytes = new Uint8Array(SIZE)
  const sent = codeOf(channel.send({ bytes }))
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
  peer.send(Buffer.from([0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 1, 0]))
  t.like(await sent, { code: LOST.code })
  await until(() => returned.length === 1, 'it')
  channel.destroy()
  await channel.closed
  peer.close()
})

test('a peer that takes no frames of definitions: a lost message that defines a record ends the channel', async t => {
  const { channel, peer } = await rawPair({}, { features: ['records'] })
  for (const value of [{ known: 0 }, Buffer.alloc(2_000_000)]) channel.send(value)
  const [known, unknown] = [new Uint8Array(SIZE), new Uint8Array(SIZE)]
  const first = codeOf(channel.send([known]))
  structuredClone(known.buffer, { transfer: [known.buffer] })
  t.like(await first, { code: LOST.code })
  channel.send(Buffer.alloc(2_000_000))
  const second = codeOf(channel.send({ unknown }))
  structuredClone(unknown.buffer, { transfer: [unknown.buffer] })
  t.is(((await channel.closed) as any).code, LOST.code)
  t.is((await second).code, 'ERR_PASSFD_CLOSED')
  peer.close()
})
