/** Which processes may take over from the main process of a service, under a real manager of systemd. */
// A process of its own: it starts a service manager
import { chmodSync, mkdirSync } from 'node:fs'
import { get } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { quoted } from '../../src/cli/serve/unit.ts'
import { connect, Descriptor, type PassfdError } from '../../src/index.ts'
import { takeoverStatus } from '../../src/takeover/index.ts'
import { fixture } from '../helpers/prefork.ts'
import { gone } from '../helpers/processes.ts'
import { type Manager, managed, started, stateOf, untilShown } from '../helpers/systemd.ts'

const program = fixture('systemd-prefork.mjs')
/** An ordinary user. */
const USER = 4711

/** Answers with the pid of the supervisor. */
function ask(socketPath: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ socketPath, agent: false }, response => void text(response).then(resolve, reject)).once('error', reject)
  })
}

/** A supervisor that others can replace, or that replaces them. */
function argumentsIn(manager: Manager, folder = manager.folder): string[] {
  const options = JSON.stringify({ takeover: join(folder, 'takeover'), workers: 1 })
  return [process.execPath, program, join(manager.folder, 'web.sock'), options, '{"upgrade":true}']
}

const commandOf = (words: readonly string[]): string => words.map(word => quoted(word)).join(' ')

managed(
  'services that replace each other: each ends with its own main process, whatever starts that',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const words = argumentsIn(manager, join(manager.folder, 'run/web'))
    const command = commandOf(words)
    const inShell = commandOf(['/bin/sh', '-c', '"$@"; exit "$?"', 'sh', ...words])
    // Otherwise systemd removes the folder at the end of the first service
    const folder = { RuntimeDirectory: 'web', RuntimeDirectoryPreserve: 'yes' }
    manager.unit('web@.service', { Service: { Type: 'notify', ExecStart: command, KillMode: 'mixed', ...folder } })
    // The shell is the main process
    manager.unit('wrapped.service', { Service: { Type: 'notify', NotifyAccess: 'all', ExecStart: inShell, ...folder } })
    // Without NOTIFY_SOCKET
    manager.unit('simple.service', { Service: { Type: 'exec', ExecStart: command, ...folder } })
    await manager.systemctl('start', 'web@1.service')
    let before = 'web@1.service'
    for (const next of ['web@2.service', 'wrapped.service', 'web@3.service', 'simple.service']) {
      const pid = await manager.show(before, 'MainPID')
      await manager.systemctl('start', next)
      await untilShown(manager, before, 'ActiveState', 'inactive')
      t.is(await stateOf(manager, before), 'inactive success')
      await gone(Number(pid))
      const served = Number(await ask(path))
      t.is(await manager.show(next, 'ActiveState'), 'active')
      if (next.startsWith('web@')) {
        t.is(await manager.show(next, 'MainPID'), `${served}`)
        // And within the service
        await manager.systemctl('kill', '-s', 'USR2', '--kill-whom=main', next)
        await gone(served)
        await untilShown(manager, next, 'ActiveState', 'active')
        t.is(await manager.show(next, 'MainPID'), await ask(path))
      }
      before = next
    }
    const last = Number(await ask(path))
    await manager.systemctl('stop', 'simple.service')
    await gone(last)
    t.is(await stateOf(manager, 'simple.service'), 'inactive success')
  },
  { uid: USER }
)

managed(
  'a job of another service, such as cron, is refused: systemd would not know it as a main process',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    manager.unit('web.service', {
      Service: { Type: 'notify', ExecStart: commandOf(argumentsIn(manager)), KillMode: 'mixed' }
    })
    manager.unit('cron.service', { Service: { Type: 'exec' } })
    await manager.systemctl('start', 'web.service')
    const pid = await manager.show('web.service', 'MainPID')
    const cron = await started(manager, 'cron.service')
    const job = argumentsIn(manager)
    const jobs: [string[], object?][] = [
      [job],
      // An orphan in a session of its own, whose parent is the manager
      [['/bin/sh', '-c', 'setsid "$@" &', 'sh', ...job]],
      // cron's jobs have few variables
      [job, { PATH: '/usr/bin:/bin' }]
    ]
    for (const [command, env] of jobs) {
      const stderr = await cron.run(`
        const { spawn } = await import('node:child_process')
        const { text } = await import('node:stream/consumers')
        const [file, ...args] = ${JSON.stringify(command)}
        const env = ${JSON.stringify(env ?? null)} ?? process.env
        return text(spawn(file, args, { env, stdio: ['ignore', 'ignore', 'pipe'] }).stderr)`)
      t.regex(
        stderr,
        /is the service web\.service, and this candidate was started by another process of the service cron\.service: /
      )
      t.is(await ask(path), pid)
    }
    await manager.systemctl('stop', 'cron.service', 'web.service')
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  },
  { uid: USER }
)

/** Begins as a peer in another language may. Resolves to the owner's refusal; undefined: it was admitted. */
async function begun(path: string, service?: object): Promise<string | undefined> {
  const candidate = await connect<any, any>(path, { authorize: () => true })
  const life = Descriptor.pipe()
  const program = { pid: process.pid, passfd: '', runtime: '' }
  const begin = { do: 'begin', takeover: 1, needs: [], program, life: life.readable, ...(service && { service }) }
  try {
    const offer: any = await candidate.request(begin, { descriptors: 253 })
    const all = [offer.path, offer.life, offer.decision, ...offer.listeners.map((one: any) => one.listener)]
    for (const descriptor of all) descriptor.close()
    return undefined
  } catch (error) {
    const { remote } = error as PassfdError
    return remote === undefined
      ? String(error)
      : `${remote.code} ${(remote.data as { where?: string } | undefined)?.where ?? remote.message}`
  } finally {
    life.writable.close()
    await candidate.close()
  }
}

const OUTSIDE = 'ERR_PASSFD_TAKEOVER_UNIT was started outside of any service'

/** A supervisor of another user, in a mount namespace made by `mounts`. It gets no notifications out. */
async function owner(manager: Manager, unshare: string, mounts: string): Promise<string> {
  const folder = join(manager.folder, 'shared')
  mkdirSync(folder, { recursive: true })
  chmodSync(manager.folder, 0o711)
  chmodSync(folder, 0o777)
  const takeover = join(folder, 'takeover')
  const options = { takeover, workers: 1 }
  const drop = `exec setpriv --reuid=${USER} --regid=${USER} --clear-groups "$@"`
  const args = [process.execPath, program, join(folder, 'web.sock'), JSON.stringify(options)]
  const command = ['/usr/bin/unshare', ...unshare.split(' '), 'sh', '-c', `${mounts} && ${drop}`, 'sh', ...args]
  manager.unit('web.service', {
    Service: {
      Type: 'exec',
      Environment: 'NOTIFY_SOCKET=@passfd-nobody',
      WorkingDirectory: '/',
      ExecStart: command.map(word => quoted(word)).join(' ')
    }
  })
  await manager.systemctl('start', 'web.service')
  // The path is there before it is served
  while ((await takeoverStatus(takeover, { authorize: () => true }).catch(() => undefined)) === undefined);
  return takeover
}

managed('a candidate that does not report its unit: the owner looks for itself', async (t, manager) => {
  const path = await owner(manager, '-m', 'true')
  t.is(await begun(path), OUTSIDE)
  manager.unit('other.service', { Service: { Type: 'exec' } })
  const other = await started(manager, 'other.service')
  const offered = await other.run(`
    const candidate = await passfd.connect(${JSON.stringify(path)}, { authorize: () => true })
    const life = passfd.Descriptor.pipe()
    const program = { pid: process.pid, passfd: '', runtime: '' }
    const begin = { do: 'begin', takeover: 1, needs: [], program, life: life.readable }
    const { total } = await candidate.request(begin, { descriptors: 253 })
    await candidate.close()
    return total`)
  t.is(offered, 1)
  await manager.systemctl('stop', 'other.service', 'web.service')
})

managed(
  'a candidate that the owner can not see is admitted by what it reports, and refused otherwise',
  async (t, manager) => {
    const path = await owner(manager, '-m', 'mount -t proc -o hidepid=2 proc /proc')
    t.is(await begun(path), 'ERR_PASSFD_TAKEOVER_UNIT does not report its service, and is hidden from that process')
    t.is(await begun(path, { own: true }), OUTSIDE)
    t.is(await begun(path, { unit: 'session-3.scope', own: true }), OUTSIDE)
    t.is(
      await begun(path, { unit: 'cron.service', own: false }),
      'ERR_PASSFD_TAKEOVER_UNIT was started by another process of the service cron.service'
    )
    t.is(await begun(path, { unit: 'web.service', own: false }), undefined)
    t.is(await begun(path, { unit: 'web@2.service', own: true }), undefined)
    for (const wrong of [{}, { own: 1 }, { own: true, unit: 3 }])
      t.regex((await begun(path, wrong)) ?? '', /^ERR_PASSFD_TAKEOVER_PROTOCOL /)
    await manager.systemctl('stop', 'web.service')
  }
)

managed('an owner that does not know its own unit, as in a container, admits everybody', async (t, manager) => {
  const path = await owner(manager, '-m -C', 'true')
  t.is(await begun(path), undefined)
  t.is(await begun(path, { own: false }), undefined)
  await manager.systemctl('stop', 'web.service')
})
