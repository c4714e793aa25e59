/**
 * `node --import tsx bench/store.ts [--seconds N] [--runs N] [FLOOD…]`, as root: how long a `copy()` of one user lasts while another user floods the store.
 * Prints a table. Build first. Each flood runs with the same 10,000 names and 100 connections; `spin` burns only CPU, so it shows the noise of the machine.
 */
import { fork } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { loadavg, setPriority, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type * as Passfd from '../src/index.ts'
import type * as Stores from '../src/store/index.ts'

const { connect, Descriptor }: typeof Passfd = await import(new URL('../dist/index.js', import.meta.url).href)
const { connectStore, openStore }: typeof Stores = await import(new URL('../dist/store/index.js', import.meta.url).href)

type Channel = Awaited<ReturnType<typeof connect<any, any>>>

const [VICTIM, FLOODER] = [1001, 65_534]
/** Names of each, and open connections of each. */
const NAMES = { [VICTIM]: 2000, [FLOODER]: 7900 }
const CONNECTIONS = { [VICTIM]: 20, [FLOODER]: 80 }

const [, , role, path, ...rest] = process.argv
process.on('disconnect', () => process.exit(1)) // its parent has ended
const anybody = { authorize: () => true }
let requests = 0

/** Each is started on every connection of the flooder. */
const FLOODS: Record<string, (channel: Channel, index: number) => Promise<void>> = {
  async quiet() {},
  async spin(_, index) {
    if (index === 0) for (;;) await new Promise(setImmediate)
  },
  put: channel =>
    pipelined(8, async (_, lane) => {
      const name = `own-${lane}`
      await channel.request({
        do: 'put',
        name: `${name}-${channel.peer.pid}`,
        descriptors: [Descriptor.memfd()],
        replace: true
      })
      requests++
    }),
  putRemove: (channel, index) =>
    pipelined(8, async (_, lane) => {
      const name = `own-${index}-${lane}`
      await channel.request({ do: 'put', name, descriptors: [Descriptor.memfd()] })
      await channel.request({ do: 'remove', name })
      requests += 2
    }),
  list: channel => pipelined(32, () => asked(channel, { do: 'list' })),
  listNothing: channel => pipelined(32, () => asked(channel, { do: 'list', names: 'none-at-all' })),
  listUnread: async channel => {
    // Nobody reads the answers
    for (;;) await Promise.all(Array.from({ length: 500 }, () => asked(channel, { do: 'list' })))
  },
  async watch(channel, index) {
    for (let watch = 0; watch < 12; watch++) await channel.request({ do: 'watch', watch, names: 'own*' })
    if (index < 8) await FLOODS.putRemove!(channel, index)
  },
  async watchAll(channel, index) {
    for (let watch = 0; watch < 12; watch++) await channel.request({ do: 'watch', watch })
    if (index < 8) await FLOODS.putRemove!(channel, index)
  },
  watchAgain: channel =>
    pipelined(12, async (_, watch) => {
      await asked(channel, { do: 'watch', watch })
      await asked(channel, { do: 'unwatch', watch })
    }),
  async hello() {
    for (;;) {
      const channel = await connect<any, any>(path!, anybody)
      await asked(channel, { do: 'hello', store: 1, client: crypto.getRandomValues(new Uint8Array(16)) })
      await channel.close()
    }
  },
  async connect() {
    for (;;) {
      const channel = await connect<any, any>(path!, anybody)
      requests++
      channel.destroy()
    }
  },
  async helloKept() {
    for (;;) {
      const channel = await connect<any, any>(path!, anybody)
      const kept = Array.from({ length: 1024 }, (_, i) => i)
      await asked(channel, { do: 'hello', store: 1, client: crypto.getRandomValues(new Uint8Array(16)), kept })
      await channel.close()
    }
  },
  helloRefused: channel => {
    const kept = [...Array.from({ length: 1023 }, (_, i) => i), 'x']
    return pipelined(2, () => asked(channel, { do: 'hello', store: 1, client: new Uint8Array(16), kept }))
  },
  takeRelease: (channel, index) =>
    pipelined(8, async (_, lane) => {
      const lease = await asked(channel, { do: 'take', name: `name-${index * 8 + lane}` })
      for (const one of lease?.descriptors ?? []) one.close()
      if (lease) await asked(channel, { do: 'release', entry: lease.entry })
    }),
  async leaseMany(_channel, index) {
    // Thousands of leases come back at once
    if (index >= 2) return
    for (;;) {
      const one = await connect<any, any>(path!, anybody)
      await pipelined(32, async (round, lane) => {
        const at = round * 32 + lane
        if (at >= 3900) return false
        const lease = await asked(one, { do: 'take', name: `name-${index * 3900 + at}` })
        for (const descriptor of lease?.descriptors ?? []) descriptor.close()
        return
      })
      await one.close()
    }
  },
  descriptors: (channel, index) =>
    index >= 30
      ? Promise.resolve()
      : pipelined(1, async () => {
          const descriptors = Array.from({ length: 253 }, () => shared.dup())
          await asked(channel, { do: 'put', name: `many-${index % 10}`, descriptors, replace: true })
        }),
  async descriptorsCopied(channel, index) {
    if (index === 0) {
      const descriptors = Array.from({ length: 253 }, () => shared.dup())
      await asked(channel, { do: 'put', name: 'many', descriptors })
    }
    await sleep(300)
    await pipelined(2, async () => {
      const copy = await asked(channel, { do: 'copy', name: 'many' }, 253)
      for (const one of copy?.descriptors ?? []) one.close()
    })
  },
  junk: channel => pipelined(900, () => asked(channel, { do: 'nothing' })),
  /** Requests that cost much to decode. */
  nested: channel => pipelined(16, () => asked(channel, { do: 'list', names: 'none', junk: NESTED, more: NUMBERS })),
  async messages(channel) {
    for (;;) {
      for (let i = 0; i < 100; i++) void channel.send({ do: 'nothing' }).catch(() => {})
      requests += 100
      await channel.send({ do: 'nothing' })
      await new Promise(setImmediate)
    }
  }
}
const shared = Descriptor.memfd()
const NUMBERS = new Array(60).fill(1.5)
const NESTED = Array.from({ length: 60 }, () => [])

async function asked(channel: Channel, request: object, descriptors = 1): Promise<any> {
  requests++
  return await (async () => channel.request(request, { descriptors, timeout: 0 }))().catch(error => {
    failures.set(error.remote?.code ?? error.code, (failures.get(error.remote?.code ?? error.code) ?? 0) + 1)
    if (error.code !== 'ERR_PASSFD_REMOTE') return new Promise(() => {})
  })
}
const failures = new Map<string, number>()

async function pipelined(lanes: number, work: (round: number, lane: number) => Promise<unknown>): Promise<void> {
  await Promise.all(
    Array.from({ length: lanes }, async (_, lane) => {
      for (let round = 0; (await work(round, lane)) !== false; round++);
    })
  )
}

function become(uid: number): void {
  process.setgroups!([])
  process.setgid!(uid)
  process.setuid!(uid)
}

async function filled(uid: number): Promise<Channel[]> {
  const channels: Channel[] = []
  for (let i = 0; i < CONNECTIONS[uid]!; i++) channels.push(await connect<any, any>(path!, anybody))
  for (let i = 0; i < NAMES[uid]!; i += 100)
    await Promise.all(
      Array.from({ length: 100 }, (_, j) =>
        channels[0]!.request({ do: 'put', name: `name-${i + j}`, descriptors: [Descriptor.memfd()] })
      )
    )
  return channels
}

async function storeRole(): Promise<void> {
  setPriority(-10) // others on this machine must not be measured
  const total = { descriptors: 14_000, names: 20_000 }
  const store = await openStore({ path: path!, mode: 0o666 }, { total, quota: { descriptors: 11_000, names: 9000 } })
  process.send!('ready')
  let longest = 0
  let before = performance.now()
  setInterval(() => {
    const now = performance.now()
    longest = Math.max(longest, now - before - 1)
    before = now
  }, 1)
  process.on('message', () => {
    process.send!({ rss: process.memoryUsage().rss, longest, status: store.status })
    longest = 0
  })
}

async function victimRole(): Promise<void> {
  setPriority(-15)
  become(VICTIM)
  await filled(VICTIM)
  const store = await connectStore(path!, anybody)
  process.send!('ready')
  process.on('message', async seconds => {
    const times: number[] = []
    for (const end = performance.now() + Number(seconds) * 1000; performance.now() < end; ) {
      const began = performance.now()
      const copy = await store.copy(`name-${times.length % 1000}`)
      times.push(performance.now() - began)
      for (const one of copy!.descriptors) one.close()
      await sleep(1)
    }
    times.sort((a, b) => a - b)
    const at = (part: number): number => times[Math.min(times.length - 1, Math.floor(times.length * part))]!
    process.send!({ count: times.length, p50: at(0.5), p99: at(0.99), max: at(1) })
  })
}

async function flooderRole(name: string): Promise<void> {
  become(FLOODER)
  const channels = await filled(FLOODER)
  for (const [index, channel] of channels.entries())
    FLOODS[name]!(channel, index).catch(error => console.error(name, index, error))
  process.send!('ready')
  setInterval(() => {}, 1000)
  process.on('message', () => process.send!({ requests, failures: Object.fromEntries(failures) }))
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seconds: { type: 'string', default: '2' }, runs: { type: 'string', default: '3' } }
  })
  const folder = mkdtempSync(join(tmpdir(), 'passfd-bench-store-'))
  chmodSync(folder, 0o755)
  const names = positionals.length > 0 ? positionals : Object.keys(FLOODS)
  const unknown = names.find(name => FLOODS[name] === undefined)
  if (unknown !== undefined)
    throw new Error(`there is no flood ${unknown}; there are: ${Object.keys(FLOODS).join(', ')}`)
  console.log(`copy() of another user, in ms; load ${loadavg()[0]!.toFixed(1)} at the start`)
  console.log(`${'flood'.padEnd(18)}    p50    p99    max   store's longest turn   requests/s   store RSS MB   load`)
  try {
    for (const name of names) {
      const rows: any[] = []
      let failed = {}
      for (let run = 0; run < Number(values.runs); run++) {
        const socket = join(folder, `${name}-${run}`)
        const start = async (kind: string): Promise<{ ask(what: unknown): Promise<any>; end(): void }> => {
          const child = fork(import.meta.filename, [kind, socket, name], { execArgv: ['--import', 'tsx'] })
          const next = (): Promise<any> =>
            new Promise((resolve, reject) => {
              child.once('message', resolve)
              child.once('exit', code => reject(new Error(`${kind} has ended with ${code}`)))
            })
          await next()
          return {
            ask(what) {
              const answer = next()
              child.send(what as string)
              return answer
            },
            end: () => void child.kill('SIGKILL')
          }
        }
        const store = await start('store')
        const victim = await start('victim')
        const flooder = await start('flooder')
        await sleep(500)
        await store.ask('reset')
        const { requests: before } = await flooder.ask('count')
        const measured = await victim.ask(values.seconds)
        const count = await flooder.ask('count').catch(() => ({ requests: Number.NaN }))
        const { rss, longest } = await store.ask('facts')
        failed = count.failures ?? {}
        rows.push({
          ...measured,
          rss,
          longest,
          rate: (count.requests - before) / Number(values.seconds),
          load: Number(readFileSync('/proc/loadavg', 'utf8').split(' ')[0])
        })
        for (const one of [flooder, victim, store]) one.end()
      }
      const median = (key: string): number => rows.map(row => row[key]).sort((a, b) => a - b)[rows.length >> 1]!
      const number = (value: number, width: number, digits = 2): string => value.toFixed(digits).padStart(width)
      console.log(
        `${name.padEnd(18)} ${number(median('p50'), 6)} ${number(median('p99'), 6)} ${number(median('max'), 6)} ${number(median('longest'), 22)} ${number(median('rate'), 12, 0)} ${number(median('rss') / 2 ** 20, 14, 0)} ${number(median('load'), 6, 1)} ${Object.keys(failed).length > 0 ? JSON.stringify(failed) : ''}`
      )
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  process.exit(0)
}

if (role === 'store') await storeRole()
else if (role === 'victim') await victimRole()
else if (role === 'flooder') await flooderRole(rest[0]!)
else await main()
