// socket.io in several processes on one port, long polling included. Its workers: socket.io-sticky-worker.ts
//   node --import tsx examples/socket.io-sticky.ts 3000 4
import { type Route, Supervisor } from 'passfd/prefork'

/**
 * A session lives in one worker, and its requests come on several connections: a poll and what is sent meanwhile, later a WebSocket. A
 * worker begins the ids of its sessions with its slot, so each connection's first line tells where it belongs:
 *   GET /socket.io/?EIO=4&transport=polling&sid=2.lv_VI97HAXpY6yYWAAAC HTTP/1.1
 * One without an id begins a session, anywhere.
 */
const bySession: Route = ({ head, ended }) => {
  const end = head.indexOf('\r\n')
  if (end < 0 && !ended) return 'more'
  const [, slot] = /[?&]sid=(\d+)\./.exec(head.toString('latin1', 0, Math.max(end, 0))) ?? []
  return slot === undefined ? undefined : Number(slot)
}

const supervisor = new Supervisor({
  entry: new URL('socket.io-sticky-worker.ts', import.meta.url),
  workers: Number(process.argv[3] ?? 4),
  listeners: { http: { port: Number(process.argv[2] ?? 3000) } },
  balance: { dispatch: bySession }
})
// What one worker is told, all of them tell their clients
supervisor.on('state', ({ state, channel }) => {
  if (state !== 'starting') return
  channel.serve(({ value }) => {
    for (const worker of supervisor.workers) if (worker.state === 'ready') worker.channel.send(value)
  })
})
supervisor.on('worker', ({ slot, pid }) => console.log(`slot ${slot}: process ${pid} serves`))
await supervisor.run()
