/** A server that is killed again and again under wrk, and started again by a loop in the shell, with its listener in the store. */
import { fileURLToPath } from 'node:url'
import { connectStore } from '../../src/store/index.ts'
import { times } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { lostOnlyAccepted, startKiller, startWrk, WRK } from '../helpers/prefork.ts'
import { start } from '../helpers/process.ts'
import { lives } from '../helpers/processes.ts'
import { missing, stop } from '../helpers/programs.ts'
import { testInCiIf, until } from '../helpers/test.ts'

const example = (name: string): string => fileURLToPath(new URL(`../../examples/store/${name}.mjs`, import.meta.url))

testInCiIf(
  missing(WRK, 'wrk'),
  'KILL again and again under wrk, with the store replaced meanwhile: nobody is refused, and only what was accepted is reset',
  async t => {
    const path = socketPath()
    let holder = start(process.execPath, [example('holder'), path])
    await holder.line()
    const loop = start('/bin/sh', [
      '-c',
      `trap 'exit 0' TERM; while :; do "$@"; done`,
      'sh',
      process.execPath,
      example('server'),
      path
    ])
    t.teardown(() => loop.child.kill('SIGKILL'))
    const serving = async (): Promise<[pid: number, port: number]> => {
      const [, pid, port] = /^process (\d+) serves port (\d+)$/.exec(await loop.line())!
      return [Number(pid), Number(port)]
    }
    let [pid, port] = await serving()
    const kills = times(10, 100)
    const killer = startKiller(t)
    const endWrk = startWrk(t, port, 16, 0, { close: true, seconds: 600 })
    let accepted = 0
    for (let kill = 0; kill < kills; kill++) {
      accepted += (await killer.kill(pid)).length
      await until(() => !lives(pid), 'the process ends')
      const [next, same] = await serving()
      t.is(same, port)
      pid = next
      if (kill % 10 !== 5) continue
      const successor = start(process.execPath, [example('holder'), path])
      await successor.line()
      await holder.exit
      holder = successor
    }
    const outcome = await endWrk()
    await killer.end()
    lostOnlyAccepted(t, outcome, { kills, accepted })
    const client = await connectStore(path)
    t.deepEqual(
      (await client.list()).map(({ name }) => name),
      ['http']
    )
    await client.close()
    loop.child.kill('SIGTERM')
    process.kill(pid, 'SIGTERM')
    await loop.exit
    await stop(holder)
  }
)
