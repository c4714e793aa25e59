// One executable: the supervisor, and by its argument the worker.
import { createServer } from 'node:http'
import { connect, Descriptor, pair } from 'passfd'
import { joinSupervisor, Supervisor } from 'passfd/prefork'

async function main() {
  if (process.argv[2] === 'worker') return work()
  const [channel, end] = pair()
  const other = await connect(end)
  other.serve(({ value }) => value.file.kind)
  console.log(await channel.request({ file: Descriptor.openSync('/etc/hostname') }))
  await Promise.all([channel.close(), other.close()])
  const listeners = { http: { host: '127.0.0.1', port: 0 } }
  await new Supervisor({ entry: 'worker.mjs', workers: 1, listeners }).start().catch(({ code, message }) => {
    console.log(code, message)
  })
  const supervisor = new Supervisor({
    entry: process.execPath, // this executable again
    spawn: { args: ['worker'] },
    workers: 2,
    listeners
  })
  await supervisor.start()
  console.log(`port ${supervisor.address('http').port}`)
  await supervisor.run()
}

async function work() {
  const worker = await joinSupervisor()
  await worker.listen(
    'http',
    createServer((_request, response) => response.setHeader('connection', 'close').end(`worker ${process.pid}`))
  )
  await worker.ready()
}

main()
