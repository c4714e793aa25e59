/**
 * What grows? `channels-N`: CPU time of both ends for a message, with N channels on one loop, each of which sends BATCH a turn; in ns.
 * `descriptors-N`: the same for a descriptor, while N others are open in both processes. `flat`: bytes that the resident sets of both
 * have grown by since the first million messages, after so many more.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { connect, Descriptor, listen } from '../../dist/index.js'
import {
  address,
  isFar,
  measure,
  residentSet,
  rounds,
  settle,
  small,
  socketPath,
  startFar,
  Tally,
  workload
} from '../workload.mjs'

const BATCH = 16
const MILLION = Number(process.env.BENCH_MILLION ?? 1_000_000)
/** Millions a run: half of five runs see more than ten. */
const SHARE = 4

const [what, count] = workload.split('-')
const descriptors = what === 'descriptors'
const channelCount = what === 'channels' ? Number(count) : 1

setFlagsFromString('--expose-gc')
globalThis.gc = runInNewContext('gc')

const source = Descriptor.openSync('/dev/null')
const open = Array.from({ length: descriptors ? Number(count) : 0 }, () => source.dup())

async function far() {
  const server = await listen(address, { maxConnections: channelCount })
  const tallies = new Map()
  server.on('channel', channel => {
    const tally = new Tally()
    tallies.set(channel, tally)
    channel.serve(({ value, descriptors: [descriptor] }) => {
      const report = tally.take(value)
      if (report !== undefined) return value.mark === 'memory' ? memory(report) : { ...report, cpu: cpu() }
      if (descriptors) descriptor.close()
    })
    channel.once('close', () => tallies.delete(channel) && tallies.size === 0 && server.close())
  })
  console.log('listening')
}

async function memory(report) {
  await settle()
  return { ...report, resident: residentSet() }
}

/** In µs. */
function cpu() {
  const { user, system } = process.cpuUsage()
  return user + system
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const channels = []
  for (let i = 0; i < channelCount; i++) channels.push(await connect(path))
  const [first] = channels
  if (what === 'flat') await flat(first)
  else {
    const mark = (mark = true) => first.request({ mark })
    await measure(phaseOf(channels), mark)
  }
  for (const descriptor of [source, ...open]) descriptor.close()
  for (const channel of channels) await channel.close()
}

const value = descriptors ? id => ({ id, file: source.dup() }) : small

function phaseOf(channels) {
  const marks = () => Promise.all(channels.map(channel => channel.request({ mark: true })))
  return async time => {
    const before = cpu() + (await marks())[0].cpu
    const start = performance.now()
    let sent = 0
    do {
      for (const channel of channels) {
        for (let id = sent; id < sent + BATCH - 1; id++) channel.send(value(id))
        await channel.send(value(sent + BATCH - 1))
      }
      sent += BATCH
      await turn()
    } while (performance.now() - start < time)
    const reports = await marks()
    for (const { count } of reports) if (count !== sent) throw new Error(`${count} of ${sent} arrived`)
    return ((cpu() + reports[0].cpu - before) / (sent * channels.length)) * 1000
  }
}

async function flat(channel) {
  const many = async count => {
    for (let id = 0; id < count; id += 256) {
      for (let more = 0; more < 255; more++) channel.send(small(id + more))
      await channel.send(small(id + 255))
      await turn()
    }
    const report = await channel.request({ mark: 'memory' })
    if (report.count !== Math.ceil(count / 256) * 256) throw new Error(`${report.count} of ${count} arrived`)
    await settle()
    return report.resident + residentSet()
  }
  const first = await many(MILLION)
  await rounds(async () => (await many(SHARE * MILLION)) - first)
}

await (isFar ? far() : near())
