// A program that replaces itself: started again, it takes over from the one that serves. argv[2], JSON: { kind: 'seat' | 'supervisor', path, port, unix, workers }.
// It says 'ready' when it serves, and stops when its standard input ends
import { createServer } from 'node:http'

const { kind, path, port, unix, workers } = JSON.parse(process.argv[2])
const listeners = { http: { port, host: '127.0.0.1' }, unix: { path: unix } }
const answer = (_, response) => response.end(`${process.pid}`)

if (kind === 'worker') {
  const { joinSupervisor } = await import('../../../build/dist/prefork/index.js')
  const worker = await joinSupervisor()
  const server = createServer(answer)
  for (const name of ['http', 'unix']) await worker.listen(name, server)
  await worker.ready()
} else if (kind === 'supervisor') {
  const { Supervisor } = await import('../../../build/dist/prefork/index.js')
  const args = [JSON.stringify({ kind: 'worker' })]
  const entry = new URL(import.meta.url)
  const supervisor = new Supervisor({ entry, workers, listeners, takeover: path, spawn: { args } })
  supervisor.on('started', () => console.log('ready'))
  process.stdin.on('end', () => supervisor.stop()).resume()
  await supervisor.run()
  process.exit()
} else {
  const { takeOver } = await import('../../../build/dist/takeover/index.js')
  const seat = await takeOver({ path, listeners })
  const server = createServer(answer)
  for (const name of ['http', 'unix']) await seat.listen(name, server)
  await seat.ready()
  process.stdin.on('end', () => seat.stop()).resume()
  console.log('ready')
}
