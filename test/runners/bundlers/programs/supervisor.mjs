// Prints its port; its workers are the program worker beside it, bundled, too.
import { dirname, extname, join } from 'node:path'
import { Supervisor } from 'passfd/prefork'

async function main() {
  const [, own] = process.argv
  const supervisor = new Supervisor({
    entry: join(dirname(own), `worker${extname(own)}`),
    workers: 2,
    listeners: { http: { host: '127.0.0.1', port: 0 } }
  })
  await supervisor.start()
  console.log(`port ${supervisor.address('http').port}`)
  await supervisor.metrics().catch(({ code }) => console.log(code)) // prom-client is not bundled
  await supervisor.run()
}

main()
