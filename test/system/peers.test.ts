/** The peers in Python and C, written from docs/protocol.md, against passfd: each as the one that listens, and as the one that connects. */
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { type Channel, type ChannelOptions, type ChannelServer, connect, Descriptor, listen } from '../../src/index.ts'
import { codeError } from '../helpers/channels.ts'
import {
  ForeignPeer,
  inCSanitized,
  type Language,
  lacking,
  type PeerLimits,
  type Received
} from '../helpers/foreign-peers.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { systemPython } from '../helpers/programs.ts'
import { test, testIf, testInCiIf, until } from '../helpers/test.ts'

const MIB = 1 << 20

test('each fits on three pages', t => {
  for (const name of ['python/peer.py', 'c/peer.c']) {
    const path = fileURLToPath(new URL(`../../examples/${name}`, import.meta.url))
    t.true(readFileSync(path, 'utf8').split('\n').length <= 150, name)
  }
})

interface Both {
  t: ExecutionContext
  channel: Channel<any, any>
  peer: ForeignPeer
}

interface Case {
  options?: ChannelOptions
  limits?: PeerLimits
  /** How passfd's end ends: with this code. */
  code?: string
  /** True if the other process is killed in the test. */
  killed?: true
}

const roles = ['listen', 'connect'] as const
const languages: Language[] = ['python', 'c']

/** Runs it with each peer in each role. At the end nothing may be open, at either end, and no sanitizer may have complained. */
function testBoth(
  title: string,
  { options = {}, limits = {}, code, killed }: Case,
  body: (both: Both) => Promise<void>
) {
  for (const language of languages)
    for (const role of roles)
      testIf(lacking(language), `${language} ${role}s: ${title}`, async t => {
        const path = socketPath()
        let server: ChannelServer<any, any> | undefined
        let channel: Channel<any, any>
        let peer: ForeignPeer
        if (role === 'connect') {
          server = await listen<any, any>(path, options)
          peer = new ForeignPeer(language, role, path, limits)
          ;[channel] = (await once(server, 'channel')) as [Channel<any, any>]
        } else {
          peer = new ForeignPeer(language, role, path, limits)
          t.is(await peer.line(), 'listens')
          channel = await connect<any, any>(path, options)
        }
        t.is(await peer.line(), 'open')
        const before = await peer.opened()
        await body({ t, channel, peer })
        t.is(((await channel.closed) as { code?: string } | undefined)?.code, code)
        if (killed !== true) {
          t.is(await peer.opened(), before - 1, 'the socket alone was closed')
          t.deepEqual(await peer.end(), { code: 0, signal: null, stderr: '' })
        }
        await server?.close()
      })
}

/** What the descriptors of a value are open on. */
const wordsOf = (list: readonly Descriptor[]): string[] =>
  list.map(file => {
    const words = readFileSync(`/proc/self/fd/${file.borrow()}`, 'utf8')
    file.close()
    return words
  })

/** A value as the drivers send it, and read it. */
function value(words: string[], pad = 0): { list: Descriptor[]; pad: Buffer } {
  const list = words.map(word => {
    const file = Descriptor.memfd('text')
    writeFileSync(`/proc/self/fd/${file.borrow()}`, word)
    return file
  })
  return { list, pad: Buffer.alloc(pad, 'x') }
}

const names = (kind: number, id: number, count: number): string[] =>
  Array.from({ length: count }, (_, at) => `${kind}.${id}.${at}`)
const got = (kind: string, id: number, words: string[], pad = 0): Received => ({
  kind,
  id,
  count: words.length,
  pad,
  words
})

/** Closes both ends: passfd's first, while the other one reads. */
async function closeBoth({ t, channel, peer }: Both): Promise<void> {
  peer.tell('receive')
  await channel.close()
  t.is(await peer.line(), 'end')
}

const large = { options: { maxMessage: 2 * MIB }, limits: { maxMessage: 2 * MIB } }

testBoth('messages in both directions, with descriptors, and large ones in pieces', large, async both => {
  const { t, channel, peer } = both
  const sizes = [0, 1, 253].flatMap(count => [0, 1, 70_000, MIB + 1].map(pad => ({ count, pad })))
  const seen: unknown[] = []
  channel.on('message', ({ value: incoming }) => seen.push([wordsOf(incoming.list), incoming.pad.length]))
  for (const { count, pad } of sizes) {
    t.is(await peer.send('message', 0, count, pad), 'sent')
    await until(() => seen.length > 0, 'the message')
    t.deepEqual(seen.splice(0), [[names(1, 0, count), pad]])
    void channel.send(value(names(1, pad, count), pad))
    t.deepEqual(await peer.receive(), got('message', 0, names(1, pad, count), pad))
  }
  await closeBoth(both)
})

testBoth('requests, replies and faults in both directions', {}, async both => {
  const { t, channel, peer } = both
  channel.serve(({ value: incoming }) => {
    const words = wordsOf(incoming.list)
    if (words.length === 2) throw Object.assign(new Error('no'), { code: 'E_TWO' })
    return value(
      words.map(word => `${word}!`),
      incoming.pad.length
    )
  })
  for (const [id, count] of [0, 1, 2, 253].entries()) {
    t.is(await peer.send('request', id, count, 9, count), 'sent')
    const answer = await peer.receive()
    if (count === 2) t.is((answer as Received).kind, 'fault')
    else
      t.deepEqual(
        answer,
        got(
          'reply',
          id,
          names(2, id, count).map(word => `${word}!`),
          9
        )
      )
  }
  // More than the request allows: passfd answers with a fault
  await peer.send('request', 7, 3, 0, 1)
  t.like(await peer.receive(), { kind: 'fault', id: 7 })

  for (const count of [0, 1, 2, 253]) {
    const answer = channel.request(value(names(9, 9, count)), { descriptors: 253 })
    const { id, words } = (await peer.receive()) as Received
    t.deepEqual(words, names(9, 9, count))
    if (count === 2) {
      await peer.send('fault', id)
      t.like(await t.throwsAsync(answer, codeError('REMOTE')), { remote: { code: 'ERR_OF_THE_TEST' } })
    } else {
      await peer.send('reply', id, count)
      t.deepEqual(wordsOf(((await answer) as any).list), names(3, id, count))
    }
  }
  await closeBoth(both)
})

testBoth('several requests at once, answered in another order', {}, async both => {
  const { t, channel, peer } = both
  const answers = [1, 2, 3].map(() => channel.request(value(['one'])))
  const ids: number[] = []
  for (const _ of answers) ids.push(((await peer.receive()) as Received).id)
  for (const id of [...ids].reverse()) await peer.send('reply', id, 1)
  for (const [at, answer] of answers.entries())
    t.deepEqual(wordsOf(((await answer) as any).list), names(3, ids[at]!, 1))
  await closeBoth(both)
})

testBoth('cancelled requests in both directions', {}, async both => {
  const { t, channel, peer } = both
  // passfd's: the peer sees the cancel, and answers nevertheless
  const controller = new AbortController()
  const answer = channel.request(value(['one']), { signal: controller.signal })
  const { id } = (await peer.receive()) as Received
  controller.abort()
  await t.throwsAsync(answer)
  t.deepEqual(await peer.receive(), got('cancel', id, []))
  t.is(await peer.send('reply', id, 1), 'sent')
  // The peer's: it gets no answer, although one with a descriptor comes
  const handled: ((answer: unknown) => void)[] = []
  channel.serve(({ value: incoming }) => {
    wordsOf(incoming.list)
    return new Promise(resolve => handled.push(resolve))
  })
  await peer.send('request', 5, 1, 0, 9)
  await peer.send('cancel', 5)
  await peer.send('request', 6, 0, 0, 9)
  await until(() => handled.length === 2, 'both requests')
  for (const [at, respond] of handled.entries()) respond(value([`answer ${at}`]))
  t.deepEqual(await peer.receive(), got('reply', 6, ['answer 1']))
  await closeBoth(both)
})

testBoth('both wait for credit', { options: { window: 1000 }, limits: { window: 1000 } }, async both => {
  const { t, channel, peer } = both
  let seen = 0
  channel.on('message', ({ value: incoming }) => {
    seen += incoming.pad.length
    for (const file of incoming.list) file.close()
  })
  const sent: Promise<unknown>[] = []
  for (let i = 0; i < 20; i++) sent.push(channel.send(value(['one'], 400)))
  for (let i = 0; i < 20; i++) {
    t.is(await peer.send('message', 0, 1, 400), 'sent')
    t.deepEqual(await peer.receive(), got('message', 0, ['one'], 400))
  }
  await until(() => seen === 8000, 'all messages')
  await Promise.all(sent)
  await closeBoth(both)
})

testBoth(
  'more than the other end accepts is refused, and nothing is lost',
  { options: { maxDescriptors: 3, maxMessage: 5000 } },
  async both => {
    const { t, channel, peer } = both
    const seen: number[] = []
    channel.on('message', ({ value: incoming }) => seen.push(wordsOf(incoming.list).length))
    t.is(await peer.send('message', 0, 4), 'refused')
    t.is(await peer.send('message', 0, 0, 5000), 'refused')
    t.is(await peer.send('message', 0, 3, 4900), 'sent')
    await until(() => seen.length > 0, 'the message')
    t.deepEqual(seen, [3])
    await closeBoth(both)
  }
)

// --- the end

testBoth('the peer closes first', {}, async ({ t, channel, peer }) => {
  await peer.send('message', 0, 1)
  channel.on('message', ({ value: incoming }) => wordsOf(incoming.list))
  t.is(await peer.do('close'), 'closed')
  t.is(await peer.left(), 0)
  await channel.closed
})

testBoth('both close at once', {}, async ({ t, channel, peer }) => {
  peer.tell('close')
  await channel.close()
  t.is(await peer.line(), 'closed')
})

testBoth('the peer closes while its request waits for the answer', {}, async ({ t, channel, peer }) => {
  let respond: ((answer: unknown) => void) | undefined
  channel.serve(
    ({ value: incoming }) =>
      new Promise(resolve => {
        for (const file of incoming.list) file.close()
        respond = resolve
      })
  )
  await peer.send('request', 1, 1, 0, 1)
  await until(() => respond !== undefined, 'the request')
  peer.tell('close')
  respond!(value(['late']))
  t.is(await peer.line(), 'closed')
})

testBoth('passfd closes while its request waits for the answer', {}, async ({ t, channel, peer }) => {
  const answer = channel.request(value(['one']))
  const closed = channel.close()
  const { id } = (await peer.receive()) as Received
  await peer.send('reply', id, 1)
  t.deepEqual(wordsOf(((await answer) as any).list), names(3, id, 1))
  t.is(await peer.do('receive'), 'end')
  await closed
})

testBoth('the peer closes with a request of passfd unanswered: a fault', {}, async ({ t, channel, peer }) => {
  const answer = channel.request(value(['one']))
  await peer.receive()
  peer.tell('close')
  t.like(await t.throwsAsync(answer, codeError('REMOTE')), { remote: { code: 'ERR_PASSFD_UNANSWERED' } })
  t.is(await peer.line(), 'closed')
})

testBoth('messages that passfd sends while the peer leaves', {}, async ({ t, channel, peer }) => {
  const returned: unknown[] = []
  channel.on('returned', ({ descriptors }) => {
    for (const descriptor of descriptors) returned.push(descriptor.kind)
  })
  let over = false
  void channel.closed.then(() => {
    over = true
  })
  peer.tell('close')
  await until(() => {
    const late = value(['one'])
    try {
      void channel.send(late)
    } catch {
      wordsOf(late.list)
      over = true
    }
    return over
  }, 'the goodbye')
  t.is(await peer.line(), 'closed')
  t.log(`${returned.length} came back`)
})

testBoth('passfd is destroyed', {}, async ({ t, channel, peer }) => {
  await peer.send('message', 0, 2)
  channel.destroy()
  t.regex(await peer.do('receive'), /^error ERR_PASSFD_/)
  t.true((await peer.left()) <= 2)
})

testBoth(
  'the peer is killed: what it has not confirmed comes back',
  { code: 'ERR_PASSFD_DISCONNECTED', killed: true },
  async both => {
    const { t, channel, peer } = both
    const returned: string[][] = []
    channel.on('returned', ({ descriptors }) => returned.push(wordsOf(descriptors)))
    void channel.send(value(['one', 'two']))
    peer.running.child.kill('SIGKILL')
    await peer.running.exit
    await channel.closed
    t.deepEqual(returned, [['one', 'two']])
  }
)

for (const language of languages)
  testIf(lacking(language), `${language} is not let in`, async t => {
    const path = socketPath()
    const server = await listen(path, { authorize: () => false })
    const peer = new ForeignPeer(language, 'connect', path)
    t.is(await peer.line(), 'error ERR_PASSFD_UNAUTHORIZED')
    await peer.end()
    await server.close()
  })

// --- the programs of docs/jobs/language.md, each with each

const example = (path: string): string => fileURLToPath(new URL(`../../examples/${path}`, import.meta.url))
const PROGRAMS = {
  Node: { agent: 'passfd', said: 'node', command: () => [process.execPath, letter()] },
  Python: { agent: 'peer.py', said: 'python', command: () => [systemPython, '-B', example('python/capitals.py')] },
  C: { agent: 'peer.c', said: 'c', command: () => [inCSanitized(example('c/capitals.c'))] }
}
let copy: string | undefined

/** A copy of the page's program beside an installed passfd. */
function letter(): string {
  if (copy === undefined) {
    const folder = temporaryPath('letter')
    mkdirSync(join(folder, 'node_modules'), { recursive: true })
    symlinkSync(fileURLToPath(new URL('../..', import.meta.url)), join(folder, 'node_modules/passfd'))
    copy = join(folder, 'letter.mjs')
    copyFileSync(example('jobs/language/letter.mjs'), copy)
  }
  return copy
}

for (const [name, listening] of Object.entries(PROGRAMS))
  for (const [other, connecting] of Object.entries(PROGRAMS))
    testInCiIf(lacking('c') ?? lacking('python'), `${name} listens, and ${other} sends it a letter`, async t => {
      const path = socketPath()
      const [command, ...args] = listening.command()
      const [client, ...more] = connecting.command()
      const server = start(command!, [...args, 'listen', path])
      t.regex(await server.line(), new RegExp(`^${listening.said}: process \\d+ listens$`))
      const sender = start(client!, [...more, 'connect', path])
      const words = `Written by ${other}.`
      t.is(await server.line(), `${listening.said}: ${connecting.agent} sent a letter: ${words}`)
      t.is(await sender.line(), `${connecting.said}: ${listening.agent} answers: ${words.toUpperCase()}`)
      for (const { exit } of [server, sender]) t.deepEqual(await exit, { code: 0, signal: null, stderr: '' })
      t.false(existsSync(path))
    })
