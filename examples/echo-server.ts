// A multi-process echo server: the parent accepts, a child serves the descriptor that it was passed, and children are reaped.
//   node --import tsx examples/echo-server.ts            a demonstration with a client of its own, on a free port
//   node --import tsx examples/echo-server.ts 7000       serves port 7000 until it is interrupted:  nc 127.0.0.1 7000
//   node --import tsx examples/echo-server.ts 7000 2     the same with two children
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { joinSupervisor, Supervisor } from 'passfd/prefork'

const [role, children = 3] = process.argv.slice(2)
if (role === 'child') await child()
else await parent(Number(role ?? 0))

async function child() {
  const worker = await joinSupervisor()
  const server = createServer(socket => {
    socket.write(`This is process ${process.pid}.\n`)
    socket.pipe(socket)
  })
  await worker.listen('echo', server)
  await worker.ready()
}

async function parent(port: number) {
  const supervisor = new Supervisor({
    entry: new URL(import.meta.url),
    spawn: { args: ['child'] },
    workers: Number(children),
    listeners: { echo: { host: '127.0.0.1', port } },
    balance: { dispatch: () => undefined } // this process accepts, and sends each connection to the next child in turn
  })
  supervisor.on('exit', ({ pid }, code, signal) => console.log(`parent: child ${pid} was reaped: ${signal ?? code}`))
  if (port > 0) return supervisor.run()

  await supervisor.start()
  console.log(`parent: process ${process.pid} accepts, and ${supervisor.workers.length} children serve`)
  const address = supervisor.address('echo') as { port: number }
  for (let i = 0; i < supervisor.workers.length; i++) console.log(`client: ${await visit(address.port)}`)

  const [victim] = supervisor.workers
  const replacement = once(supervisor, 'worker')
  process.kill(victim!.pid!, 'SIGKILL')
  await replacement
  console.log(`parent: another one serves in slot ${victim!.slot}`)
  console.log(`client: ${await visit(address.port)}`)
  await supervisor.stop()
}

async function visit(port: number): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.end('Does it echo?')
  return (await text(socket)).replace('\n', ' ')
}
