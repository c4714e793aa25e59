/** Each unit in examples/systemd/ starts and does what its table says. */
// A process of its own: it starts a service manager
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../src/index.ts'
import { connectStore } from '../../src/store/index.ts'
import { freePort } from '../helpers/port.ts'
import { childrenOf, lives } from '../helpers/processes.ts'
import { Manager, untilShown, withoutManager } from '../helpers/systemd.ts'
import { test, testInCiIf, until } from '../helpers/test.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const examples = join(root, 'examples/systemd')
const units = readdirSync(examples).filter(name => /\.(service|socket)$/.test(name))

/** A manager with the units and their programs: the folder, the port and Node are this machine's, and the user is the manager's. */
async function withUnits(work: (manager: Manager, ask: () => Promise<string>) => Promise<void>): Promise<void> {
  await using manager = await Manager.start()
  const port = await freePort()
  const folder = join(manager.folder, 'web')
  mkdirSync(join(folder, 'node_modules'), { recursive: true })
  symlinkSync(root, join(folder, 'node_modules/passfd'))
  for (const name of readdirSync(examples)) {
    if (!units.includes(name)) cpSync(join(examples, name), join(folder, name))
    else {
      const unit = readFileSync(join(examples, name), 'utf8')
        .replaceAll('/srv/web', folder)
        .replaceAll('/usr/bin/node', process.execPath)
        .replaceAll('3000', `${port}`)
        .replace('User=web\n', '')
      writeFileSync(join(manager.folder, 'config/systemd/user', name), unit)
    }
  }
  const ask = (): Promise<string> =>
    new Promise((resolve, reject) => {
      get({ port, host: '127.0.0.1', agent: false }, response => void text(response).then(resolve, reject)).once(
        'error',
        reject
      )
    })
  await work(manager, ask)
}

test('every unit is in the table, and names a program that is there', t => {
  const readme = readFileSync(join(examples, 'README.md'), 'utf8')
  for (const name of units) {
    t.true(readme.includes(`\`${name}\``), name)
    const [, program] = /^ExecStart=\/usr\/bin\/node (\S+)/m.exec(readFileSync(join(examples, name), 'utf8')) ?? []
    t.is(name.endsWith('.service'), program !== undefined, name)
    // That of store.service is the command
    if (program !== undefined) t.true(readdirSync(examples).includes(program) || program.endsWith('/passfd.mjs'), name)
  }
})

testInCiIf(withoutManager, 'plain and of a user: ready, a status, a graceful stop', t =>
  withUnits(async (manager, ask) => {
    for (const name of ['plain.service', 'user.service']) {
      await manager.systemctl('start', name)
      t.regex(await manager.show(name, 'StatusText'), /^serves at \d+$/)
      t.is(await ask(), `process ${await manager.show(name, 'MainPID')}\n`)
      await manager.systemctl('stop', name)
      t.is(await manager.show(name, 'Result'), 'success')
    }
  })
)

testInCiIf(withoutManager, 'activated: the port and the counter outlive the process, even KILL', t =>
  withUnits(async (manager, ask) => {
    await manager.systemctl('start', 'activated.socket')
    const pids = new Set<string>()
    for (let request = 1; request <= 9; request++) {
      const [, count, pid] = /^request (\d+), process (\d+)\n$/.exec(await ask())!
      t.is(count, `${request}`)
      pids.add(pid!)
      // The next client waits in systemd's socket meanwhile
      if (request % 3 === 0) process.kill(Number(pid), 'SIGKILL')
    }
    t.is(pids.size, 3)
    await manager.systemctl('restart', 'activated.service')
    t.regex(await ask(), /^request 10,/)
    await manager.systemctl('stop', 'activated.socket', 'activated.service')
    // A service that is started by its own name would bind the port itself, if its socket were not there
    for (const name of ['activated', 'takeover']) {
      await manager.systemctl('start', `${name}.service`)
      t.is(await manager.show(`${name}.socket`, 'ActiveState'), 'active', name)
      t.is(await manager.show(`${name}.service`, 'ActiveState'), 'active', name)
      await manager.systemctl('stop', `${name}.socket`, `${name}.service`)
    }
  })
)

testInCiIf(withoutManager, 'prefork: a reload replaces the workers; takeover: the supervisor, too', t =>
  withUnits(async (manager, ask) => {
    const answer = async (): Promise<number[]> =>
      /^process (\d+) of (\d+)\n$/
        .exec(await ask())!
        .slice(1)
        .map(Number)
    await manager.systemctl('start', 'prefork.service')
    t.is(await manager.show('prefork.service', 'StatusText'), '4 of 4 workers ready')
    const pid = Number(await manager.show('prefork.service', 'MainPID'))
    const before = childrenOf(pid)
    t.is(before.length, 4)
    t.true(before.includes((await answer())[0]!))
    await manager.systemctl('reload', 'prefork.service')
    await until(() => childrenOf(pid).every(child => !before.includes(child)), 'new workers only')
    t.is((await answer())[1], pid)
    await manager.systemctl('stop', 'prefork.service')
    t.is(await manager.show('prefork.service', 'Result'), 'success')

    await manager.systemctl('start', 'takeover.socket', 'takeover.service')
    const first = Number(await manager.show('takeover.service', 'MainPID'))
    t.is((await answer())[1], first)
    await manager.systemctl('reload', 'takeover.service')
    await until(() => !lives(first), 'the predecessor ends')
    const second = Number(await manager.show('takeover.service', 'MainPID'))
    t.not(second, first)
    t.is((await answer())[1], second)
    await manager.systemctl('stop', 'takeover.socket', 'takeover.service')
    t.is(await manager.show('takeover.service', 'Result'), 'success')
    await until(() => !lives(second), 'the successor ends')
  })
)

testInCiIf(withoutManager, 'store: a status, a reload that keeps what it holds, and a restart that does not', t =>
  withUnits(async manager => {
    const { systemctl, show } = { systemctl: manager.systemctl.bind(manager), show: manager.show.bind(manager) }
    await systemctl('start', 'store.service')
    t.is(await show('store.service', 'StatusText'), '0 names, 0 descriptors')
    const first = Number(await show('store.service', 'MainPID'))
    await using client = await connectStore(join(manager.folder, 'run/store/store.socket'))
    t.is(client.peer!.pid, first)
    await client.put('files', [Descriptor.openSync('/dev/null'), Descriptor.openSync('/dev/null')])
    await untilShown(manager, 'store.service', 'StatusText', '1 name, 2 descriptors')
    await systemctl('reload', 'store.service')
    await until(() => !lives(first), 'the predecessor ends')
    const second = Number(await show('store.service', 'MainPID'))
    t.not(second, first)
    t.like(await client.list(), [{ name: 'files' }])
    t.is(client.peer!.pid, second)
    await untilShown(manager, 'store.service', 'StatusText', '1 name, 2 descriptors')
    t.is(await show('store.service', 'ActiveState'), 'active')
    await systemctl('restart', 'store.service')
    t.deepEqual(await client.list(), [])
    await systemctl('stop', 'store.service')
    t.is(await show('store.service', 'Result'), 'success')
    t.is(await show('store.service', 'NRestarts'), '0')
  })
)
