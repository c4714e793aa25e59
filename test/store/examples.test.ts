/** The examples of the store do what their comments say. */
import { fileURLToPath } from 'node:url'
import { connectStore } from '../../src/store/index.ts'
import { socketPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { testInCi } from '../helpers/test.ts'

const example = fileURLToPath(new URL('../../examples/store/supervisor.mjs', import.meta.url))

testInCi('a supervisor that is a store: replaced five times, and no request is counted twice or lost', async t => {
  const path = socketPath()
  const supervisors = []
  let port = 0
  let count = 0
  const ask = async (): Promise<void> => {
    const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })
    t.is(await response.text(), `request ${++count}`)
  }
  for (let i = 0; i < 5; i++) {
    const supervisor = start(process.execPath, [example, path, `${port}`])
    supervisors.push(supervisor)
    const [, pid, where] = /^process (\d+) serves port (\d+), and is the store$/.exec(await supervisor.line())!
    port ||= Number(where)
    t.is(Number(where), port)
    t.is(Number(pid), supervisor.child.pid!)
    for (let j = 0; j < 10; j++) await ask()
    const client = await connectStore(`${path}.store`)
    t.is(client.peer!.pid, supervisor.child.pid!)
    t.deepEqual(
      (await client.list()).map(({ name, entry }) => [name, entry]),
      [['count', 1]]
    )
    await client.close()
    const before = supervisors.at(-2)
    if (before === undefined) continue
    t.regex(await before.line(), /has ended$/)
    t.like(await before.exit, { code: 0, stderr: '' })
  }
  supervisors.at(-1)!.child.kill('SIGTERM')
  t.like(await supervisors.at(-1)!.exit, { code: 0, stderr: '' })
})
