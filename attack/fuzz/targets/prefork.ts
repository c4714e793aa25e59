/** What workers, clients of the served port and commands say to a supervisor. */
import { EventEmitter } from 'node:events'
import { checkInteger } from '../../../src/base/check.ts'
import { stickyBalance } from '../../../src/cli/serve/sticky.ts'
import { readSpec } from '../../../src/os/bind-spec.ts'
import { faultIn, wordsOf } from '../../../src/prefork/control/from-worker.ts'
import { checkWorkers } from '../../../src/prefork/options.ts'
import { answer } from '../../../src/prefork/supervisor/admin.ts'
import { readAsk } from '../../../src/prefork/supervisor/desk.ts'
import { LineSplitter } from '../../../src/prefork/supervisor/output-lines.ts'
import { allowed, isCount, isSame, must, packed, type Target, type Targets, texts, valueIn } from '../target.ts'

const WORKER_SAYS = [
  { type: 'join', version: 1, newest: 6, debugPort: 9229 },
  { type: 'uses', name: 'web', adopts: true, exposed: false, grant: 1 },
  { type: 'leaves', name: 'web', grant: 2 },
  { type: 'ready' },
  { type: 'beat', connections: 1, requests: 2, lag: 0.5, inspector: 'ws://127.0.0.1:9229/x' },
  { type: 'closed', count: 3 },
  { type: 'stopping' },
  { type: 'failed', name: 'Error', message: 'it failed' },
  { type: 'recovered' },
  { type: 'accepted', name: 'web', count: 4, taken: 3, error: -11 },
  { type: 'handsOver', gives: true, inherits: false },
  { type: 'idle', name: 'web', connections: [] }
]

/** What a supervisor acts on has the types that it relies on: checked here once more, in other words. */
const workers: Target = {
  sources: /\/src\/prefork\/control\/from-worker\./,
  seeds: () => packed(...WORKER_SAYS),
  attempt(input) {
    const value = valueIn(input)?.value as Record<string, unknown> | undefined
    must(wordsOf(value).length <= 4097, 'too long a text')
    if (typeof value !== 'object' || value === null || typeof value.type !== 'string') return
    for (const field of Object.values(value)) must(wordsOf(field).length <= 4097, 'too long a text')
    if (faultIn(value as never) !== undefined) return
    const { type, name, count, taken, error, grant } = value
    const isName = typeof name === 'string' && name.length > 0 && name.length < 256
    if (['uses', 'leaves', 'accepted'].includes(type)) must(isName, 'a name that is none')
    if (type === 'uses' || type === 'leaves') must(grant === undefined || (isCount(grant) && grant !== 0), 'a grant')
    if (type === 'uses') must(typeof value.adopts === 'boolean', 'adopts')
    if (type === 'closed') must(isCount(count), 'a count')
    if (type === 'beat')
      must(isCount(value.connections) && isCount(value.requests) && (value.lag as number) >= 0, 'a beat')
    if (type !== 'accepted') return
    must(isCount(count) && isCount(taken) && (taken as number) <= (count as number), 'counts')
    must(error === undefined || (Number.isInteger(error) && (error as number) < 0), 'an error')
  }
}

/** Questions of programs that call `listen()`. What they want is checked as a program's own address. */
const asks: Target = {
  sources: /\/src\/(prefork\/supervisor\/desk|os\/bind-spec)\./,
  seeds: () =>
    texts(
      JSON.stringify({ token: 't', nth: 0, join: WORKER_SAYS[0], wanted: { port: 80, host: '::1', ipv6Only: true } }),
      JSON.stringify({ token: 't', nth: 1, join: {}, left: [['web', 1]] }),
      JSON.stringify({ token: 't', nth: 0, join: {}, wanted: { path: '/a', mode: 511, backlog: 5 } }),
      JSON.stringify({ token: 't', nth: 0, join: {}, wanted: { type: 'udp4', port: 53, address: 'x' } })
    ),
  attempt(input) {
    const ask = readAsk(input)
    if (ask === undefined) return
    must(typeof ask.token === 'string' && Number.isSafeInteger(ask.nth), 'a token or a number is none')
    must(typeof ask.join === 'object' && ask.join !== null, 'a join is none')
    for (const pair of ask.left ?? []) must(Array.isArray(pair), 'what was left is no pair')
    const spec = allowed(['ERR_PASSFD_INVALID_ARGUMENT'], () => readSpec(ask.wanted, 'wanted'))
    if (spec === undefined) return
    if ('path' in spec) must(typeof spec.path === 'string' && !spec.path.includes('\0') && isCount(spec.mode), 'a path')
    else must(isCount(spec.port) && spec.port < 65_536, 'a port')
  }
}

const supervisor = Object.assign(new EventEmitter(), {
  phase: 'running',
  size: 1,
  addresses: {},
  draining: [],
  workers: [],
  reload: () => 'reload',
  scale(workers: unknown) {
    checkWorkers(workers)
    return 'scale'
  },
  metrics: () => 'metrics',
  stop: () => 'stop',
  kill: () => 'kill'
})
const subject = { since: 0, foreign: false, lastLines: undefined, emptySlots: () => [] }
const lines = {
  add(_: unknown, last: unknown) {
    checkInteger(last, 'last', 0, 1000)
    return 0
  }
}
const DONE = new Set(['reload', 'scale', 'metrics', undefined])

const admin: Target = {
  sources: /\/src\/(prefork\/supervisor\/admin|base\/(known-options|check))\./,
  seeds: () =>
    packed(
      { command: 'status' },
      { command: 'reload' },
      { command: 'scale', workers: 4 },
      { command: 'metrics' },
      { command: 'subscribe', lines: true, last: 5 },
      { comand: 'status' },
      { command: 'other', workers: 1 }
    ),
  attempt(input) {
    const found = valueIn(input)
    // These two are done a turn of the loop later
    if (found === undefined || ['stop', 'kill'].includes((found.value as { command: string } | null)?.command ?? ''))
      return
    const channel = { closed: new Promise(() => {}) }
    const message = { value: found.value, channel } as never
    const result = allowed(['ERR_PASSFD_INVALID_ARGUMENT'], () =>
      answer(message, supervisor as never, subject as never, new Set(), lines as never)
    )
    must(typeof result === 'object' || DONE.has(result as string), `it answers ${result}`)
  }
}

const ROUTES = ['address', 'cookie', 'cookie=a', 'socket.io'].map(rule => stickyBalance(rule)!.dispatch) as ((
  connection: object,
  workers: readonly object[]
) => unknown)[]
const SLOTS = [{ slot: 0 }, { slot: 1 }, { slot: 5 }]

/** First bytes of clients: a byte that says how they came, then the bytes. */
const clients: Target = {
  sources: /\/src\/cli\/serve\/sticky\./,
  seeds: () =>
    texts(
      '\x00GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; connect.sid=s%3Ax; c\r\n\r\n',
      '\x01GET /socket.io/?EIO=4&transport=polling&sid=abc HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1, 1.1.1.1\r\n\r\n',
      '\x02POST /a HTTP/1.1\r\nForwarded: for="[2001:db8::1]:80";proto=http;by=1\r\n\r\nbody',
      '\x03\x16\x03\x01\x02\x00',
      '\x01GET',
      '\x03PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
    ),
  attempt(input) {
    if (input.length === 0) return
    const ended = (input[0]! & 1) !== 0
    const remoteAddress = [undefined, '127.0.0.1', '10.1.2.3', '::1'][(input[0]! >> 1) & 3]
    const head = input.subarray(1)
    for (const route of ROUTES) {
      const slot = route({ head, ended, remoteAddress, localPort: 80 }, SLOTS)
      if (ended || head.includes('\r\n\r\n')) must(slot !== 'more', 'it wants more bytes of an ended head')
      must(slot === 'more' || slot === undefined || SLOTS.some(one => one.slot === slot), `slot ${slot}`)
      const again = route({ head, ended, remoteAddress, localPort: 80 }, SLOTS)
      must(again === slot, 'the same connection gets another slot')
    }
  }
}

/** The first byte chooses the longest line; then comes a worker's output. Its pieces do not matter. */
const output: Target = {
  sources: /\/src\/prefork\/supervisor\/output-lines\./,
  seeds: () => texts('\x04one\ntwo\n\nthree', '\x01\n\n\n', '\x00abc', '\x20a long line without an end'),
  attempt(input) {
    const limit = 1 + (input[0] ?? 0)
    const rest = input.subarray(1)
    const cut = (length: number): Buffer[] => {
      const splitter = new LineSplitter(limit)
      const all: Buffer[] = []
      for (let at = 0; at < rest.length; at += length) all.push(...splitter.push(rest.subarray(at, at + length)))
      return [...all, ...splitter.end()]
    }
    const whole = cut(rest.length || 1)
    must(
      whole.every(line => line.length <= limit && !line.includes(10)),
      'too long a line, or two in one'
    )
    must(Buffer.concat(whole).equals(Buffer.from(rest.filter(byte => byte !== 10))), 'bytes are lost')
    for (const length of [1, 3, limit])
      must(isSame(cut(length).map(String), whole.map(String)), `in pieces of ${length}`)
  }
}

export const preforkTargets: Targets = { admin, asks, clients, output, workers }
