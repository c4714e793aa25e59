import { listen } from '../../../src/index.ts'
import { adminWorker } from '../../helpers/admin-status.ts'
import { captured, runPassfd } from '../../helpers/cli.ts'
import { socketPath } from '../../helpers/path.ts'
import { test } from '../../helpers/test.ts'

test('lines for which the reader of stdout has no room are dropped, and counted', async t => {
  const path = socketPath()
  const server = await listen(path)
  server.serve(async ({ value, channel }) => {
    t.like(value, { command: 'subscribe', lines: true })
    for (let count = 1; count <= 5; count++)
      void channel.send({
        event: 'line',
        worker: adminWorker(),
        stream: 'stdout',
        time: 0,
        line: Buffer.from(`line ${count}`)
      })
    setImmediate(() => void channel.close())
    return { last: 0 }
  })
  const streams = captured()
  let asked = 0
  Object.defineProperty(streams.stdout, 'writableLength', { get: () => (++asked <= 3 ? 17 << 20 : 0) })
  const { code, out, err } = await runPassfd(['logs', path], streams)
  await server.close()
  t.is(code, 0)
  t.is(out, 'line 4\nline 5\n')
  t.is(err, `passfd: 3 lines missed, because this reads too slowly.\npassfd: ${path} has ended.\n`)
})
