// Four workers that serve one port, and their supervisor. This file is both
import { createServer } from 'node:http'
import { fileURLToPath } from 'node:url'
import { joinSupervisor, Supervisor } from 'passfd/prefork'

if (process.argv[2] === 'worker') {
  const worker = await joinSupervisor()
  await worker.listen(
    'http',
    createServer((_, response) => response.end(`process ${process.pid} of ${process.ppid}\n`))
  )
  await worker.ready()
} else {
  const { TAKEOVER, PORT = 3000 } = process.env
  const supervisor = new Supervisor({
    entry: fileURLToPath(import.meta.url),
    spawn: { args: ['worker'] },
    workers: 4,
    listeners: { http: { activated: 'http', port: Number(PORT) } },
    ...(TAKEOVER && { takeover: TAKEOVER })
  })
  await supervisor.run({ upgrade: TAKEOVER !== undefined }) // USR2: a successor
}
