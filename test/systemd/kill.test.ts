/** Services of a real manager of systemd whose processes get signals: by `systemctl kill`, and by KILL under load. */
// A process of its own: it starts a service manager
import { once } from 'node:events'
import { get, type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { times } from '../helpers/full.ts'
import { fixture, lostOnlyAccepted, startKiller, startWrk, WRK } from '../helpers/prefork.ts'
import { childrenOf, gone, lives } from '../helpers/processes.ts'
import { missing } from '../helpers/programs.ts'
import { type Manager, managed, stateOf, untilOther, untilShown } from '../helpers/systemd.ts'
import { until } from '../helpers/test.ts'

type Where = { socketPath: string } | { host: string; port: number }

/** Answers with the pid of the service's main process. */
function ask(where: Where, path = '/'): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ ...where, path, agent: false }, response => void text(response).then(resolve, reject)).once('error', reject)
  })
}

/** A request that a worker has begun to answer. Returns a function that ends it, and resolves to the whole answer. */
async function begun(socketPath: string): Promise<() => Promise<string>> {
  const upload = request({ socketPath, method: 'POST', agent: false })
  upload.on('error', () => {}) // the response has it, too
  upload.write('first ')
  const [response] = (await once(upload, 'response')) as [IncomingMessage]
  const [first] = await once(response, 'data')
  return async () => {
    upload.end('second')
    return `${first}${await text(response)}`
  }
}

async function start(manager: Manager): Promise<string> {
  const path = join(manager.folder, 'web.sock')
  manager.unit('web.socket', { Socket: { ListenStream: path, FileDescriptorName: 'http' } })
  manager.unit('web.service', {
    Unit: { StartLimitIntervalSec: '0' },
    Service: {
      Type: 'notify',
      ExecStart: `${process.execPath} ${fixture('systemd-prefork.mjs')} /nowhere`,
      KillMode: 'mixed',
      Restart: 'always',
      RestartSec: '0'
    }
  })
  await manager.systemctl('start', 'web.socket', 'web.service')
  return path
}

managed(
  'systemctl kill of a supervisor alone, and of all its processes: TERM is graceful, KILL is not, and Restart= starts it again',
  async (t, manager) => {
    const path = await start(manager)
    let restarts = 0
    for (const signal of ['TERM', 'KILL'])
      for (const whom of ['main', 'all']) {
        const pid = await manager.show('web.service', 'MainPID')
        const workers = childrenOf(Number(pid))
        t.is(workers.length, 2)
        const end = await begun(path)
        await manager.systemctl('kill', '-s', signal, `--kill-whom=${whom}`, 'web.service')
        // A worker that is killed a moment later may have accepted them. The others wait in systemd's socket
        const later = Array.from({ length: 20 }, () =>
          ask({ socketPath: path }).catch(({ code }) => `${signal} ${code}`)
        )
        if (signal === 'TERM') {
          await untilShown(manager, 'web.service', 'SubState', 'stop-sigterm')
          t.true(lives(Number(pid)), 'it waits for the request')
          t.is(await end(), 'first second')
        } else if (whom === 'all') {
          for (const worker of workers) await gone(worker)
          await t.throwsAsync(end)
        } else await end().catch(() => {}) // its worker may be quicker than systemd, which kills what is left
        await untilOther(manager, 'web.service', 'MainPID', pid)
        await untilShown(manager, 'web.service', 'NRestarts', `${++restarts}`)
        await untilShown(manager, 'web.service', 'ActiveState', 'active')
        for (const worker of [Number(pid), ...workers]) await gone(worker)
        const now = await manager.show('web.service', 'MainPID')
        for (const answer of await Promise.all(later)) {
          // The parent of a worker that was left is the manager
          if (signal === 'TERM') t.true([pid, now].includes(answer), answer)
          else t.regex(answer, /^(\d+|KILL (ECONNRESET|EPIPE))$/)
        }
        t.is(await ask({ socketPath: path }), now)
      }
    await manager.systemctl('stop', 'web.socket', 'web.service')
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  }
)

managed('a stop lets a superseded supervisor of the same service finish its requests', async (t, manager) => {
  const path = join(manager.folder, 'web.sock')
  const options = JSON.stringify({ takeover: join(manager.folder, 'takeover') })
  const command = `${process.execPath} ${fixture('systemd-prefork.mjs')} ${path} '${options}' '{"upgrade":true}'`
  manager.unit('web.service', {
    Service: { Type: 'notify', NotifyAccess: 'all', ExecStart: command, KillMode: 'mixed' }
  })
  for (const signal of [undefined, 'SIGTERM'] as const) {
    await manager.systemctl('start', 'web.service')
    const first = await manager.show('web.service', 'MainPID')
    const old = [Number(first), ...childrenOf(Number(first))]
    const end = await begun(path)
    await manager.systemctl('kill', '-s', 'USR2', '--kill-whom=main', 'web.service')
    await untilOther(manager, 'web.service', 'MainPID', first)
    await untilShown(manager, 'web.service', 'StatusText', '2 of 2 workers ready')
    const second = Number(await ask({ socketPath: path }))
    const workers = childrenOf(second)
    const stopped = manager.systemctl('stop', 'web.service')
    for (const worker of workers) await gone(worker)
    const status = `stopping, waits until the requests of process ${first} are answered`
    await untilShown(manager, 'web.service', 'StatusText', status)
    if (signal === undefined) t.is(await end(), 'first second')
    else {
      // A second signal stops at once
      process.kill(second, signal)
      for (const pid of old) await gone(pid)
      await t.throwsAsync(end)
    }
    await stopped
    await gone(Number(first))
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  }
})

managed(
  'KILL again and again, under load, with the listener in the store: no client is refused, and only accepted ones are reset',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const killed = fixture('systemd-killed.mjs')
    manager.unit('web.service', {
      Unit: { StartLimitIntervalSec: '0' },
      Service: {
        Type: 'notify',
        ExecStart: `${process.execPath} ${killed} ${path}`,
        FileDescriptorStoreMax: '3',
        Restart: 'always',
        RestartSec: '0'
      }
    })
    await manager.systemctl('start', 'web.service')
    const kills = times(10, 100)
    const outcomes: Record<string, number> = {}
    let over = false
    const client = async (): Promise<void> => {
      while (!over) {
        const outcome = await ask({ socketPath: path }).then(
          () => 'answered',
          ({ code }) => code as string
        )
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
      }
    }
    const clients = Array.from({ length: 16 }, client)
    for (let kill = 0; kill < kills; kill++) {
      const pid = Number(await ask({ socketPath: path }))
      process.kill(pid, 'SIGKILL')
      await until(() => !lives(pid), 'the process ends')
    }
    over = true
    await Promise.all(clients)
    const [starts, accepted, answered] = JSON.parse(await ask({ socketPath: path }, '/counts'))
    t.is(starts, kills + 1)
    const { answered: fine = 0, ...failed } = outcomes
    const lost = Object.values(failed).reduce((sum, count) => sum + count, 0)
    t.log(
      `${kills} kills: ${fine} answered, ${JSON.stringify(failed)}; the server: ${accepted} accepted, ${answered} answered`
    )
    t.true(fine > kills)
    t.deepEqual(
      Object.keys(failed).filter(code => !['ECONNRESET', 'EPIPE'].includes(code)),
      [],
      'nobody is refused'
    )
    // Of a Unix socket a reset may come at a write. One that the server has accepted may not be counted yet, at each kill
    t.true(lost <= accepted - answered + kills, `${lost}`)
  }
)

managed(
  'KILL again and again under wrk, with the listener in the store: nobody is refused, and only what was accepted is reset',
  async (t, manager) => {
    manager.unit('web.service', {
      Unit: { StartLimitIntervalSec: '0' },
      Service: {
        Type: 'notify',
        ExecStart: `${process.execPath} ${fixture('systemd-killed.mjs')}`,
        FileDescriptorStoreMax: '3',
        Restart: 'always',
        RestartSec: '0'
      }
    })
    await manager.systemctl('start', 'web.service')
    const port = Number((await manager.show('web.service', 'StatusText')).replace('port ', ''))
    const where = { host: '127.0.0.1', port }
    const kills = times(10, 100)
    const killer = startKiller(t)
    const endWrk = startWrk(t, port, 16, 0, { close: true, seconds: 600 })
    let accepted = 0
    for (let kill = 0; kill < kills; kill++) {
      const pid = Number(await ask(where))
      accepted += (await killer.stop(pid)).length
      await manager.systemctl('kill', '-s', 'KILL', '--kill-whom=main', 'web.service')
      await until(() => !lives(pid), 'the process ends')
    }
    const [starts] = JSON.parse(await ask(where, '/counts'))
    const outcome = await endWrk()
    await killer.end()
    t.is(starts, kills + 1)
    lostOnlyAccepted(t, outcome, { kills, accepted })
  },
  { without: missing(WRK, 'wrk') }
)
