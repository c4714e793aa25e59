// passfd/prefork in each of its balances. Started again with the same place it takes over from the one that serves
import { Supervisor } from '../../../build/dist/prefork/index.js'
import { serve, Workers } from '../obey.mjs'
import { place, reportDelay } from '../place.mjs'

const { balance, folder, listeners, options, unix, udp, udp6, workers: count } = place
/** By a digit of the request's id; whatever is no HTTP and no line goes in turn. */
const route = ({ head, ended }, workers) => {
  const text = head.toString('latin1')
  const [, id] = /^(?:(?:GET|POST) \/)?([0-9a-f]{8})-/.exec(text) ?? []
  if (id !== undefined) return workers[Number.parseInt(id, 16) % workers.length]?.slot
  return ended || text.length > 14 ? undefined : 'more'
}
if (place.worker !== undefined) reportDelay()
const supervisor = new Supervisor({
  entry: new URL(place.worker ?? 'prefork-worker.mjs', import.meta.url),
  spawn: { args: [process.argv[2]] },
  listeners: { ...listeners, unix, udp: { type: 'udp4', ...udp }, udp6: { type: 'udp6', ...udp6 } },
  balance: balance === 'route' ? { dispatch: route } : balance,
  workers: count,
  takeover: `${folder}/takeover`,
  restart: () => ({ restart: true, delay: 20 }),
  heartbeat: 500,
  readyTimeout: 200_000,
  hangTimeout: 60_000,
  // The clients pause for much less, also on a busy machine: nobody closes a connection at the moment of its next request
  idleGrace: 10_000,
  ...options
})
const workers = new Workers()
supervisor.on('worker', ({ pid }) => workers.add(pid))
supervisor.on('state', ({ pid, state }) => {
  if (state !== 'ready') workers.remove(pid)
})
const deaths = []
supervisor.on('exit', ({ pid, reason, stopped }) => {
  workers.remove(pid)
  if (!stopped) deaths.push(`${pid}: ${reason}`)
})
for (const event of ['reloadFailed', 'acceptError', 'crashLoop', 'gaveUp', 'unserved', 'takeoverReport'])
  supervisor.on(event, () => {})
supervisor.once('started', () =>
  serve(
    workers,
    {
      reload: () => supervisor.reload(),
      scale: number => supervisor.scale(number),
      stop: () => supervisor.stop(),
      deaths: () => deaths
    },
    () => supervisor.kill()
  )
)
await supervisor.run({ signals: false })
process.exit()
