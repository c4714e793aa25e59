/** Binary values of large messages that are lent (`lendBuffers`): nobody sees them after the scope, and nobody sees other bytes in them. */
import { once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { idleBlocks } from '../../src/codec/lent-bodies.ts'
import { type Channel, connect, pair } from '../../src/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { deafPair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const SIZE = 100_000
const LENT = { lendBuffers: true }

function block(fill: number, size = SIZE): Buffer {
  return Buffer.alloc(size, fill)
}

function isFilled(bytes: Uint8Array, fill: number, size = SIZE): boolean {
  return bytes.length === size && bytes.every(byte => byte === fill)
}

/** Two ends; what the right one receives is lent. */
function lending(): Promise<[Channel<any, any>, Channel<any, any>]> {
  return connected({}, LENT)
}

/** Receives further blocks, so that memory that came back is used again. */
async function overwrite(channel: Channel<any, any>, count = 4): Promise<void> {
  for (let i = 0; i < count; i++) await channel.request({ other: block(0xee) })
}

test('by default binary values are the program’s', async t => {
  const [left, right] = await connected()
  const kept: Buffer[] = []
  right.serve(({ value }) => void (value.block && kept.push(value.block)))
  for (let i = 0; i < 3; i++) await left.request({ block: block(i) })
  await overwrite(left)
  kept.forEach((bytes, i) => void t.true(isFilled(bytes, i)))
  t.is(kept.length, 3)
  await closeAll(left, right)
})

test('lent until the handler returns, or until its promise has settled', async t => {
  const [left, right] = await lending()
  const kept: Uint8Array[] = []
  let release = () => {}
  right.serve(({ value }) => {
    if (value.block === undefined) return
    t.true(isFilled(value.block, value.fill))
    kept.push(value.block, value.block.subarray(5), new Uint8Array(value.block.buffer))
    if (!value.wait) return
    return new Promise<void>(resolve => {
      release = resolve
    })
  })
  await left.request({ block: block(1), fill: 1 })
  await overwrite(left)
  t.deepEqual(
    kept.map(({ length }) => length),
    [0, 0, 0]
  )
  const waiting = left.request({ block: block(2), fill: 2, wait: true })
  await until(() => kept.length === 6, 'the second block')
  await overwrite(left)
  t.true(isFilled(kept[3]!, 2))
  release()
  await waiting
  await overwrite(left)
  t.deepEqual(
    kept.map(({ length }) => length),
    [0, 0, 0, 0, 0, 0]
  )
  await closeAll(left, right)
})

test('a typed array shows what was sent, or nothing', async t => {
  const [left, right] = await lending()
  const kept: Float64Array[] = []
  right.serve(({ value }) => void (value.floats && kept.push(value.floats)))
  // Whether its place in the body is aligned for a view depends on what stands before it
  for (let i = 0; i < 8; i++) await left.request({ text: 'x'.repeat(i), floats: new Float64Array(20_000).fill(i) })
  await overwrite(left)
  t.true(kept.every((floats, i) => floats.length === 0 || floats.every(number => number === i)))
  t.true(kept.some(({ length }) => length === 0))
  await closeAll(left, right)
})

test('lent until the next message of a loop, and to listeners until they return', async t => {
  for (const how of ['loop', 'break', 'listener'] as const) {
    const [left, right] = await lending()
    let kept: Buffer | undefined
    for (let i = 0; i < 2; i++) void left.send({ block: block(i) })
    if (how === 'listener') {
      right.on('message', async ({ value }) => {
        t.true(isFilled(value.block, kept === undefined ? 0 : 1))
        if (kept !== undefined) t.is(kept.length, 0)
        kept = value.block
        await turn()
        t.is(value.block.length, 0)
      })
      await until(() => kept?.length === 0, 'the end of the loan')
    } else {
      for await (const { value } of right) {
        const before = kept
        kept = value.block as Buffer
        await turn()
        t.true(isFilled(kept, before === undefined ? 0 : 1))
        if (before !== undefined) t.is(before.length, 0)
        if (how === 'break' || before !== undefined) break
      }
      t.is(kept?.length, 0)
      right.on('message', () => {})
    }
    await closeAll(left, right)
  }
})

test('claimed ones are the program’s: in a handler, later in it, in a loop, in a listener', async t => {
  const ways: Record<string, (channel: Channel<any, any>, give: (bytes: Buffer) => void) => void> = {
    'at once': (channel, give) =>
      channel.serve(message => {
        message.claim()
        if (message.value.block) give(message.value.block)
      }),
    'before the end': (channel, give) =>
      channel.serve(async message => {
        await turn()
        if (message.value.block) give((message.claim().value as any).block)
      }),
    'in a loop': (channel, give) =>
      void (async () => {
        for await (const message of channel) {
          if (message.value.block) give(message.value.block)
          message.claim()
          message.claim()
          if (message.isRequest) message.reply()
        }
      })(),
    'in a listener': (channel, give) =>
      void channel.on('message', message => {
        if (message.value.block) give((message.claim().value as any).block)
        if (message.isRequest) message.reply()
      })
  }
  for (const [name, serve] of Object.entries(ways)) {
    const [left, right] = await lending()
    const kept: Buffer[] = []
    serve(right, bytes => void kept.push(bytes))
    for (let i = 0; i < 3; i++) await left.send({ block: block(i) })
    await overwrite(left)
    t.true(
      kept.every((bytes, i) => isFilled(bytes, i)),
      name
    )
    t.is(kept.length, 3)
    await closeAll(left, right)
  }
})

test('a handler that throws or rejects ends the loan', async t => {
  const [left, right] = await lending()
  const kept: Buffer[] = []
  right.serve(
    ({ value }) => {
      if (value.block) kept.push(value.block)
      if (value.how === 'throws') throw new Error('no')
      if (value.how === 'rejects') return Promise.reject(new Error('no'))
    },
    { onError() {} }
  )
  for (const how of ['throws', 'rejects']) {
    await t.throwsAsync(left.request({ block: block(1), how }))
    left.send({ block: block(1), how })
  }
  await overwrite(left)
  t.deepEqual(
    kept.map(({ length }) => length),
    [0, 0, 0, 0]
  )
  await closeAll(left, right)
})

test('a handler may answer with lent bytes, in whole or in part', async t => {
  const [left, right] = await lending()
  right.serve(message => {
    const { value } = message
    if (value.part) return value.block.subarray(10, 80_010)
    if (value.reply) {
      void message.reply({ block: value.block })
      return
    }
    return value.block === undefined ? undefined : { block: value.block }
  })
  for (let i = 0; i < 20; i++) {
    const [whole, part, replied] = await Promise.all([
      left.request<any>({ block: block(i) }),
      left.request<any>({ block: block(i + 100), part: true }),
      left.request<any>({ block: block(i + 50), reply: true })
    ])
    t.true(isFilled(whole.block, i) && isFilled(part, i + 100, 80_000) && isFilled(replied.block, i + 50))
  }
  await closeAll(left, right)
})

test('lent bytes that are sent on stay until they have left, though nobody awaits that', async t => {
  const [left, right] = await lending()
  const [near, far] = await connected()
  const kept: Buffer[] = []
  right.serve(({ value }) => {
    if (!value.block) return
    kept.push(value.block)
    void near.send({ block: value.block })
  })
  for (let i = 0; i < 40; i++) await left.request({ block: block(i) })
  await overwrite(left)
  let count = 0
  for await (const { value } of far) {
    t.true(isFilled(value.block, count++))
    if (count === 40) break
  }
  far.on('message', () => {})
  await until(() => kept.every(({ length }) => length === 0), 'the end of the loans')
  await closeAll(left, right, near, far)
})

test('lent bytes under way come back when the channel that they were sent to ends', async t => {
  const [left, right] = await lending()
  const { channel: near, peer } = await deafPair<any, any>()
  let kept: Buffer | undefined
  right.serve(({ value }) => {
    kept = value.block
    near.send({ filler: Buffer.alloc(1_500_000) })
    void near.send({ block: value.block })
  })
  await left.request({ block: block(1) })
  t.true(isFilled(kept!, 1))
  near.destroy()
  peer.close()
  await until(() => kept!.length === 0, 'the end of the loan')
  await closeAll(left, right)
})

test('an answer of lent bytes to a request that was cancelled ends the loan', async t => {
  const [left, right] = await lending()
  let kept: Buffer | undefined
  right.serve(async ({ value, signal }) => {
    if (!value.block) return
    kept = value.block
    await once(signal, 'abort')
    return { block: value.block }
  })
  const cancel = new AbortController()
  const cancelled = left.request({ block: block(1) }, { signal: cancel.signal })
  await until(() => kept !== undefined, 'the block')
  cancel.abort()
  await t.throwsAsync(cancelled, { name: 'AbortError' })
  await until(() => kept!.length === 0, 'the end of the loan')
  await closeAll(left, right)
})

test('the memory of a request that is refused is used again', async t => {
  const [left, right] = await connected({}, { ...LENT, maxPending: 1 })
  let release = () => {}
  right.serve(
    () =>
      new Promise<void>(resolve => {
        release = resolve
      })
  )
  await until(() => idleBlocks().count === 0, 'idle blocks are freed')
  const first = left.request({ block: block(1) })
  const error: any = await t.throwsAsync(left.request({ block: block(2) }), { code: 'ERR_PASSFD_REMOTE' })
  t.is(error.remote.code, 'ERR_PASSFD_BUSY')
  t.is(idleBlocks().count, 1)
  release()
  await first
  await closeAll(left, right)
})

test('the channel ends while a handler has lent bytes: they stay until the handler has settled', async t => {
  for (const end of ['destroy', 'close', 'peer'] as const) {
    const [left, right] = await lending()
    let kept: Buffer | undefined
    let release = () => {}
    right.serve(async ({ value }) => {
      kept = value.block
      await new Promise<void>(resolve => {
        release = resolve
      })
      t.true(isFilled(value.block, 9), end)
    })
    left.send({ block: block(9) })
    await until(() => kept !== undefined, 'the block')
    if (end === 'destroy') right.destroy()
    else if (end === 'peer') left.destroy()
    const closed = end === 'close' ? right.close() : right.closed
    await turn()
    t.true(isFilled(kept!, 9), end)
    release()
    await closed
    await until(() => kept!.length === 0, 'the end of the loan')
    await closeAll(left, right)
  }
})

test('unread messages of a destroyed channel end their loans', async t => {
  const [left, right] = await lending()
  left.send({ block: block(1) })
  left.send({ block: block(2) })
  await turn()
  await turn()
  right.destroy()
  left.destroy()
  await closeAll(left, right)
  t.pass()
})

test('a buffer that the program has transferred stays where it went', async t => {
  const [left, right] = await lending()
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads')
     let kept
     parentPort.on('message', bytes => {
       if (bytes !== 'look') kept = bytes
       parentPort.postMessage(kept.length === ${SIZE} && kept.every(byte => byte === 3))
     })`,
    { eval: true }
  )
  let before: Buffer | undefined
  right.serve(({ value }) => {
    if (!value.block) return
    before = value.block
    worker.postMessage(value.block, [value.block.buffer])
    t.is(value.block.length, 0)
  })
  const there = once(worker, 'message')
  await left.request({ block: block(3) })
  t.deepEqual(await there, [true])
  await overwrite(left)
  worker.postMessage('look')
  t.deepEqual(await once(worker, 'message'), [true])
  t.is(before?.length, 0)
  await worker.terminate()
  await closeAll(left, right)
})

test('what stands beside the bytes in their memory is not of another message', async t => {
  const [left, right] = await lending()
  const secrets: number[] = []
  right.serve(({ value }) => {
    if (!value.look) return
    const { buffer, byteOffset, length } = value.look as Buffer
    for (const byte of [
      ...new Uint8Array(buffer, 0, byteOffset).slice(-64),
      ...new Uint8Array(buffer, byteOffset + length)
    ])
      secrets.push(byte)
  })
  for (let size = SIZE; size > 20_000; size -= 9_001) {
    await left.request({ secret: block(0xdd, size) })
    await left.request({ look: block(1, size - 5_000) })
  }
  t.false(secrets.includes(0xdd))
  t.true(secrets.length > 1000)
  await closeAll(left, right)
})

test('replies have no scope, so they are not lent', async t => {
  const [left, right] = await connected(LENT, LENT)
  right.serve(({ value }) => ({ block: block(value) }))
  const replies: any[] = []
  for (let i = 0; i < 3; i++) replies.push(await left.request<any>(i))
  for (let i = 0; i < 3; i++) await left.request({ other: block(i) }).catch(() => {})
  replies.forEach((reply, i) => void t.true(isFilled(reply.block, i)))
  await closeAll(left, right)
})

test('with descriptors and with a schema', async t => {
  const schema = {
    '~standard': {
      version: 1,
      vendor: 'test',
      validate: (value: any) => Promise.resolve({ value: { given: value.block } })
    }
  } as const
  const [near, end] = pair<any, any>()
  const far = await connect<any, any>(end, { ...LENT, schema: schema as any })
  const kept: Buffer[] = []
  far.serve(({ value, descriptors }) => {
    t.is(descriptors.length, 1)
    t.true(isFilled(value.given, 4))
    kept.push(value.given)
  })
  for (let i = 0; i < 3; i++) await near.request({ block: block(4), file: file() })
  t.deepEqual(
    kept.map(({ length }) => length),
    [0, 0, 0]
  )
  await closeAll(near, far)
})

test('the resident memory is flat, and a slow consumer has no more than the window', async t => {
  const [left, right] = await connected({}, { ...LENT, window: 1_000_000 })
  let held = 0
  let most = 0
  right.serve(
    async ({ value }) => {
      held += value.block.length
      most = Math.max(most, held)
      await turn()
      held -= value.block.length
    },
    { concurrency: 2 }
  )
  const send = async (count: number) => {
    for (let i = 0; i < count; i++) await left.send({ block: bytes })
    await left.request({ block: bytes })
  }
  const bytes = block(1, 500_000)
  await send(500)
  const before = process.memoryUsage.rss()
  await send(10_000)
  t.true(process.memoryUsage.rss() - before < 64_000_000, `${process.memoryUsage.rss() - before} bytes more`)
  t.true(most <= 1_000_000)
  await closeAll(left, right)
})
