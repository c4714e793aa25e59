// In CI only: each test starts a server again and again.
/** A loop in a shell around `passfd store copy`: a server that loses no client when it is killed. */
import { writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { times } from '../../helpers/full.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { fixture, startKiller, startWrk, WRK } from '../../helpers/prefork.ts'
import { start } from '../../helpers/process.ts'
import { gone } from '../../helpers/processes.ts'
import { missing } from '../../helpers/programs.ts'
import { startInTerminal } from '../../helpers/pty.ts'
import { type StorePlace, withStore } from '../../helpers/store-cli.ts'
import { testInCi, testInCiIf } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
/** With a file of that name it ends. */
const LOOP = `while [ ! -e "$END" ]; do "$NODE" "$PASSFD" store copy http -- "$NODE" "$SERVER"; done`

interface Loop {
  readonly env: NodeJS.ProcessEnv
  readonly port: number
  /** Ends it when its server ends. */
  end(): void
}

/** A listener in the store, and what the loop needs. */
async function prepared({ path, run }: StorePlace): Promise<Loop> {
  const { out } = await run('put', 'http', '--listen', '127.0.0.1:0', '--json')
  const end = temporaryPath('end')
  const [address] = JSON.parse(out).listeners
  return {
    port: Number(address.split(':')[1]),
    env: {
      ...process.env,
      PASSFD_STORE: path,
      END: end,
      NODE: process.execPath,
      PASSFD: command,
      SERVER: fixture('fd-server.mjs')
    },
    end: () => writeFileSync(end, '')
  }
}

/** Resolves to the pid of the server. */
async function ask(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = get({ port, host: '127.0.0.1', agent: false }, response =>
      text(response).then(answer => resolve(Number(answer)), reject)
    )
    request.once('error', reject)
  })
}

testInCiIf(
  missing(WRK, 'wrk'),
  'killed again and again under wrk: nobody is refused, and only what was accepted is reset',
  t =>
    withStore(async place => {
      const { env, port, end } = await prepared(place)
      const loop = start('/bin/sh', ['-c', LOOP], { env })
      const killer = startKiller(t)
      await ask(port)
      const endWrk = startWrk(t, port, 16, 0, { close: true, seconds: 600 })
      const kills = times(20, 100)
      const pids = new Set<number>()
      let accepted = 0
      for (let kill = 0; kill < kills; kill++) {
        const pid = await ask(port)
        pids.add(pid)
        accepted += (await killer.kill(pid)).length
        await gone(pid)
      }
      const last = await ask(port)
      const { requests, errors } = await endWrk()
      await killer.end()
      end()
      process.kill(last, 'SIGTERM')
      await loop.exit
      t.log(`${kills} kills: ${requests} answered, ${JSON.stringify(errors)}; ${accepted} accepted when it was killed`)
      t.is(pids.size, kills)
      t.deepEqual(
        { ...errors, read: 0, write: 0 },
        { connect: 0, read: 0, write: 0, status: 0, timeout: 0 },
        'nobody is refused'
      )
      t.true(errors.read + errors.write <= accepted, `${errors.read} + ${errors.write} of ${accepted}`)
    })
)

testInCi('Ctrl-C in a terminal ends the server, passfd and the loop, and the server gets one signal', t =>
  withStore(async place => {
    const { env, port } = await prepared(place)
    const shells = [['/bin/bash', '--norc', '--noprofile'], ['/bin/sh']]
    for (const [shell, ...args] of shells) {
      const terminal = startInTerminal(shell!, [...args, '-c', `${LOOP}; echo not here`], { env })
      const pid = await ask(port)
      terminal.type('\x03')
      await terminal.exit
      await gone(pid)
      t.notRegex(terminal.written, /not here/)
    }
    // A program that ends gracefully at the first INT, and at once at the second
    const file = temporaryPath('graceful.mjs')
    writeFileSync(
      file,
      "let n = 0; process.on('SIGINT', () => console.log('INT', ++n)); console.log('runs'); process.stdin.resume()"
    )
    const terminal = startInTerminal(
      process.execPath,
      [command, 'store', 'copy', 'http', '--', process.execPath, file],
      { env }
    )
    await terminal.shows(/^runs/)
    terminal.type('\x03')
    await terminal.shows(/INT 1/)
    t.notRegex(terminal.written, /INT 2/)
    // One that is sent to passfd alone
    terminal.kill('SIGTERM')
    await terminal.exit
  })
)
