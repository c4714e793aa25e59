/** A service under a real manager of systemd. */
// A process of its own: it starts a service manager
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { start } from '../helpers/process.ts'
import { childrenOf, gone, lives } from '../helpers/processes.ts'
import { type Manager, managed, managedByNewer, started, stateOf, untilOther, untilShown } from '../helpers/systemd.ts'
import { until } from '../helpers/test.ts'

const doors = ['systemd/index.js', 'index.js'].map(door => new URL(`../../build/dist/${door}`, import.meta.url).href)

/** An ordinary user. */
const USER = 4711

managed(
  'socket activation: two names, one of them twice, in order; close-on-exec; the environment is cleared',
  async (t, manager) => {
    const paths = Object.fromEntries(['a', 'b', 'c'].map(name => [name, join(manager.folder, `${name}.sock`)]))
    for (const [unit, name, ...streams] of [
      ['one', 'http', paths.a],
      ['two', 'admin', paths.b, paths.c]
    ])
      manager.unit(`${unit}.socket`, {
        Socket: { ListenStream: streams as string[], FileDescriptorName: name!, Service: 'web.service' }
      })
    manager.unit('web.service', { Service: { Sockets: 'one.socket two.socket' } })
    await manager.systemctl('start', 'one.socket', 'two.socket')
    // The first client starts the service, and waits in the queue
    const client = connect(paths.c!)
    await once(client, 'connect')
    const service = await manager.service('web.service')
    const [names, kinds, again, left, child] = await service.run(`
    const found = systemd.activatedSockets()
    kept.found = found
    const { execFileSync } = await import('node:child_process')
    return [
      found.map(({ name }) => name).sort(), found.map(({ descriptor }) => descriptor.kind),
      systemd.activatedSockets().length, Object.keys(process.env).filter(name => name.startsWith('LISTEN_')),
      execFileSync('/bin/sh', ['-c', 'ls /proc/self/fd | wc -l']).toString().trim()
    ]`)
    t.deepEqual(names, ['admin', 'admin', 'http'])
    t.deepEqual(kinds, Array(3).fill('unix-stream-listener'))
    t.is(again, 0)
    t.deepEqual(left, [])
    t.is(child, '4', 'a child has stdin, stdout, stderr and the folder')
    await service.run(`
    const { createServer } = await import('node:net')
    for (const { name, descriptor } of kept.found) createServer(socket => socket.end(name)).listen(descriptor.toListenHandle())`)
    t.is(await text(client), 'admin')
    const other = connect(paths.a!)
    t.is(await text(other), 'http')
  }
)

managed(
  'Type=notify: status, a longer time, errors; ready; a new interval; stopping; a barrier',
  async (t, manager) => {
    manager.unit('slow.service', { Service: { Type: 'notify', TimeoutStartSec: '1s', NotifyAccess: 'main' } })
    const service = await started(manager, 'slow.service')
    t.true(
      await service.run(
        "return systemd.notify({ status: 'loads: 3 of 4 (ä)', extendTimeout: 60_000, fields: { X_MINE: 'x' } })"
      )
    )
    await untilShown(manager, 'slow.service', 'StatusText', 'loads: 3 of 4 (ä)')
    // Its own second is over
    await service.run('return new Promise(resolve => setTimeout(resolve, 1500))')
    t.is(await stateOf(manager, 'slow.service'), 'activating success')
    t.true(await service.run('await systemd.notify({ ready: true, errno: 11 }); return systemd.barrier()'))
    t.is(await stateOf(manager, 'slow.service'), 'active success')
    t.is(await manager.show('slow.service', 'StatusErrno'), '11')
    t.is(await manager.show('slow.service', 'NFileDescriptorStore'), '0')
    await service.run("await systemd.notify({ stopping: true, status: 'goodbye' }); await systemd.barrier()")
    t.is(await manager.show('slow.service', 'SubState'), 'stop-sigterm')
    void service.run('process.exit()').catch(() => {})
    await service.ended
  }
)

managed('a service that never gets ready; another user process may not notify for it', async (t, manager) => {
  manager.unit('never.service', { Service: { Type: 'notify', TimeoutStartSec: '300ms' } })
  await t.throwsAsync(manager.systemctl('start', 'never.service'))
  t.is(await stateOf(manager, 'never.service'), 'failed timeout')
})

managed(
  'the store: over a restart, a crash and KILL; by name, several of one; removal by name and at the other end',
  async (t, manager) => {
    manager.unit('state.service', {
      Service: { Type: 'notify', FileDescriptorStoreMax: '8', Restart: 'always', RestartSec: '0' },
      Unit: { StartLimitIntervalSec: '0' }
    })
    const stored = () => manager.show('state.service', 'NFileDescriptorStore')
    let service = await started(manager, 'state.service')
    t.deepEqual(
      await service.run(`
      const { Descriptor } = passfd
      await systemd.notify({ ready: true })
      const memory = Descriptor.memfd('state', { size: 8 })
      const { readable, writable } = Descriptor.pipe()
      const [left, right] = Descriptor.socketpair()
      const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
      const done = []
      for (const [name, descriptor, options] of [['state', memory], ['state', Descriptor.memfd('second')], ['http', listener],
        ['polled', readable], ['kept', left, { poll: false }]]) {
        done.push(await systemd.storeDescriptor(name, descriptor, options))
        if (descriptor.closed) throw new Error('it is not the caller’s any more')
      }
      const { writeSync } = await import('node:fs')
      writeSync(memory.borrow(), 'remember')
      kept.all = [memory, readable, writable, left, right, listener]
      return done`),
      Array(5).fill(true)
    )
    t.is(await stored(), '5')
    const found = `
    kept.found = systemd.activatedSockets()
    await systemd.notify({ ready: true })
    const { readFileSync } = await import('node:fs')
    const memory = kept.found.find(({ name }) => name === 'state')
    return kept.found.map(({ name, descriptor }) => name + ' ' + descriptor.kind).sort()`
    const expected = ['http tcp-listener', 'kept unix-stream', 'state memfd', 'state memfd']
    for (const end of [
      "process.kill(process.pid, 'SIGKILL')",
      "setImmediate(() => { throw new Error('crash') })",
      undefined
    ]) {
      const before = service
      if (end === undefined) void manager.systemctl('restart', 'state.service')
      else void before.run(end).catch(() => {})
      await before.ended
      service = await manager.service('state.service')
      // The writer of the pipe has ended with the first process, so systemd has removed that (FDPOLL)
      t.deepEqual(await service.run(found), expected)
      t.is(await stored(), '4')
    }
    t.is(
      await service.run(`
      const { readSync } = await import('node:fs')
      const bytes = Buffer.alloc(8)
      const states = kept.found.filter(({ name }) => name === 'state').map(({ descriptor }) => readSync(descriptor.borrow(), bytes, 0, 8, 0))
      return states.sort().join() + bytes`),
      '0,8remember'
    )
    t.true(
      await service.run(
        "await systemd.removeStored('state'); await systemd.removeStored('none'); return systemd.barrier()"
      )
    )
    t.is(await stored(), '2')
  }
)

managed(
  'what systemd does not take is an error: no store, a full one, a process that may not notify',
  async (t, manager) => {
    const store = `return systemd.storeDescriptor('one', passfd.Descriptor.memfd('one')).catch(({ code }) => code)`
    manager.unit('none.service', { Service: {} })
    manager.unit('small.service', { Service: { FileDescriptorStoreMax: '2', NotifyAccess: 'main' } })
    const none = await started(manager, 'none.service')
    // Without NotifyAccess and Type=notify there is no NOTIFY_SOCKET
    t.false(await none.run(store))
    const small = await started(manager, 'small.service')
    t.true(await small.run(store))
    t.true(await small.run(store))
    t.is(await small.run(store), 'ERR_PASSFD_STORE_REFUSED')
    t.is(await manager.show('small.service', 'NFileDescriptorStore'), '2')
    await small.run("await systemd.removeStored('one')")
    // A child may not notify
    t.is(
      await small.run(`
        const { execFileSync } = await import('node:child_process')
        const source = \`
          const [systemd, { Descriptor }] = await Promise.all(${JSON.stringify(doors)}.map(door => import(door)))
          await systemd.storeDescriptor('x', Descriptor.memfd('x')).catch(({ code }) => console.log(code))\`
        return execFileSync(process.execPath, ['--input-type=module', '-e', source]).toString().trim()`),
      'ERR_PASSFD_STORE_REFUSED'
    )
    t.is(await manager.show('small.service', 'NFileDescriptorStore'), '0')
    manager.unit('silent.service', { Service: { Type: 'notify', FileDescriptorStoreMax: '0' } })
    const silent = await started(manager, 'silent.service')
    t.is(await silent.run(store), 'ERR_PASSFD_STORE_REFUSED')
    t.true(await silent.run('return systemd.notify({ ready: true })'))
  }
)

managed(
  'the probe of a process that was killed with it in the store is no descriptor of the program',
  async (t, manager) => {
    manager.unit('one.service', { Service: { Type: 'notify', FileDescriptorStoreMax: '1', Restart: 'always' } })
    const first = await started(manager, 'one.service')
    void first
      .run(`
      await systemd.notify({ ready: true })
      const { readable, writable } = passfd.Descriptor.pipe()
      const manager = await datagram.connect(process.env.NOTIFY_SOCKET)
      await manager.send('FDSTORE=1\\nFDNAME=passfd-probe-1', { descriptors: [writable] })
      await systemd.barrier()
      kept.readable = readable
      process.kill(process.pid, 'SIGKILL')`)
      .catch(() => {})
    const second = await manager.service('one.service')
    // Nobody can read from the pipe any more, so systemd has removed it
    await untilShown(manager, 'one.service', 'NFileDescriptorStore', '0')
    t.deepEqual(await second.run('await systemd.notify({ ready: true }); return systemd.activatedSockets()'), [])
    t.true(await second.run("return systemd.storeDescriptor('mine', passfd.Descriptor.memfd('mine'))"))
    t.is(await manager.show('one.service', 'NFileDescriptorStore'), '1')
  }
)

managed(
  'the watchdog: lives while its loop turns, is killed when it does not, and starts again',
  async (t, manager) => {
    manager.unit('dog.service', {
      Service: { Type: 'notify', WatchdogSec: '3s', Restart: 'always', RestartSec: '0', LimitCORE: '0' }
    })
    const service = await started(manager, 'dog.service')
    const begin = 'kept.dog = systemd.watchdog(); await systemd.notify({ ready: true })'
    t.is(await service.run(`${begin}; return kept.dog.interval`), 3000)
    await service.run('return new Promise(resolve => setTimeout(resolve, 4000))')
    t.is(await stateOf(manager, 'dog.service'), 'active success')
    // From here on sooner
    const hasty = 'await systemd.notify({ watchdogInterval: 300 }); await systemd.barrier()'
    void service.run(`${hasty}; for (;;);`).catch(() => {})
    await service.ended
    const second = await manager.service('dog.service')
    t.false(lives(service.pid))
    void second.run(`${begin}; kept.dog.stop(); ${hasty}`).catch(() => {})
    await second.ended // nobody pings
    const third = await manager.service('dog.service')
    void third.run("await systemd.notify({ ready: true, watchdog: 'trigger' })").catch(() => {})
    await third.ended
  }
)

managed(
  'a manager that stands still for longer than WatchdogSec=: whoever waits for it is no hung service',
  async (t, manager) => {
    const waits = {
      idle: 'undefined',
      barrier: 'systemd.barrier({ timeout: 0 })',
      store: "systemd.storeDescriptor('x', passfd.Descriptor.memfd('x'), { timeout: 0 })",
      late: 'systemd.barrier({ timeout: 10 }).catch(({ code }) => code)'
    }
    const services = new Map<string, Awaited<ReturnType<typeof started>>>()
    for (const name of Object.keys(waits)) {
      manager.unit(`${name}.service`, {
        Service: { Type: 'notify', WatchdogSec: '2s', FileDescriptorStoreMax: '2', LimitCORE: '0' }
      })
      const service = await started(manager, `${name}.service`)
      await service.run('systemd.watchdog(); await systemd.notify({ ready: true }); await systemd.barrier()')
      services.set(name, service)
    }
    process.kill(manager.pid, 'SIGSTOP')
    try {
      for (const [name, source] of Object.entries(waits)) await services.get(name)!.run(`kept.waits = ${source}`)
      await services.get('idle')!.run('return new Promise(resolve => setTimeout(resolve, 3000))')
    } finally {
      process.kill(manager.pid, 'SIGCONT')
    }
    const answers = await Promise.all([...services.values()].map(service => service.run('return kept.waits')))
    t.deepEqual(answers, [null, true, true, 'ERR_PASSFD_NOTIFY_TIMEOUT'])
    await services.get('idle')!.run('return new Promise(resolve => setTimeout(resolve, 2500))')
    for (const name of services.keys()) t.is(await stateOf(manager, `${name}.service`), 'active success', name)
  }
)

managed('the store: what only names a place; two processes at once; what has no room', async (t, manager) => {
  manager.unit('state.service', {
    Service: { Type: 'notify', NotifyAccess: 'all', FileDescriptorStoreMax: '42', Restart: 'always', RestartSec: '0' }
  })
  const service = await started(manager, 'state.service')
  const stored = () => manager.show('state.service', 'NFileDescriptorStore')
  t.true(
    await service.run(`
      await systemd.notify({ ready: true })
      return systemd.storeDescriptor('place', await passfd.Descriptor.open('/', 0x200000 /* O_PATH */))`)
  )
  t.is(await stored(), '1')
  // Each has room for its probe
  const source = `
      const [systemd, { Descriptor }] = await Promise.all(${JSON.stringify(doors)}.map(door => import(door)))
      const done = []
      for (let n = 0; n < 20; n++) done.push(systemd.storeDescriptor('x', Descriptor.memfd('x')))
      console.log((await Promise.all(done)).every(Boolean))`
  t.deepEqual(
    await service.run(`
      const { execFile } = await import('node:child_process')
      const { promisify } = await import('node:util')
      const child = () => promisify(execFile)(process.execPath, ['--input-type=module', '-e', ${JSON.stringify(source)}])
      const both = await Promise.all([child(), child()])
      return both.map(({ stdout, stderr }) => stdout + stderr)`),
    ['true\n', 'true\n']
  )
  t.is(await stored(), '41')
  t.deepEqual(
    await service.run(`
      const memory = passfd.Descriptor.memfd('last')
      const attempt = name => systemd.storeDescriptor(name, memory).catch(({ code }) => code)
      const full = [await attempt('last'), await attempt('last')]
      await systemd.removeStored('last')
      return [...full, await attempt('again')]`),
    [true, 'ERR_PASSFD_STORE_REFUSED', true]
  )
  t.is(await stored(), '42')
})

managed('another main process; reloading', async (t, manager) => {
  manager.unit('main.service', { Service: { Type: 'notify', NotifyAccess: 'all' } })
  const service = await started(manager, 'main.service')
  await service.run('await systemd.notify({ ready: true }); await systemd.barrier()')
  const pid = await service.run(`
    const { spawn } = await import('node:child_process')
    kept.child = spawn('sleep', ['1000'])
    await systemd.notify({ mainPid: kept.child.pid })
    await systemd.barrier()
    return kept.child.pid`)
  t.is(await manager.show('main.service', 'MainPID'), `${pid}`)
  await service.run('await systemd.notify({ reloading: true }); await systemd.barrier()')
  t.is(await manager.show('main.service', 'ActiveState'), 'reloading')
  await service.run('await systemd.notify({ ready: true }); await systemd.barrier()')
  t.is(await manager.show('main.service', 'ActiveState'), 'active')
  void service.run('process.exit()').catch(() => {})
  await service.ended
  t.is(await manager.show('main.service', 'ActiveState'), 'active')
  await manager.systemctl('stop', 'main.service')
  await until(() => !lives(pid), 'the new main process ends')
  t.is(await stateOf(manager, 'main.service'), 'inactive success')
})

const preforked = fileURLToPath(new URL('../fixtures/systemd-prefork.mjs', import.meta.url))

/** Answers with the pid of the supervisor. */
function ask(socketPath: string, path = '/'): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ socketPath, path, agent: false }, response => void text(response).then(resolve, reject)).once('error', reject)
  })
}

managed(
  'a supervisor: ready with all workers, reloads, status, a long stop; on an activated socket that outlives it',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const gate = join(manager.folder, 'gate')
    writeFileSync(gate, '')
    manager.unit('web.socket', { Socket: { ListenStream: path, FileDescriptorName: 'http' } })
    manager.unit('web.service', {
      Service: {
        Type: 'notify',
        Environment: `GATE=${gate}`,
        ExecStart: `${process.execPath} ${preforked} /nowhere`,
        ExecReload: '/bin/kill -HUP $MAINPID',
        KillMode: 'mixed',
        WatchdogSec: '5s'
      }
    })
    await manager.systemctl('start', 'web.socket', 'web.service')
    t.is(await manager.show('web.service', 'StatusText'), '2 of 2 workers ready')
    const pid = await manager.show('web.service', 'MainPID')
    t.is(await ask(path), pid)
    // A worker that dies is missed, and replaced
    const [worker] = childrenOf(Number(pid))
    rmSync(gate)
    process.kill(worker!, 'SIGKILL')
    await untilShown(manager, 'web.service', 'StatusText', '1 of 2 workers ready')
    writeFileSync(gate, '')
    await untilShown(manager, 'web.service', 'StatusText', '2 of 2 workers ready')
    const before = childrenOf(Number(pid))
    rmSync(gate)
    // It may wait for the end of the reload
    const reloaded = manager.systemctl('reload', 'web.service')
    await untilShown(manager, 'web.service', 'StatusText', '2 of 2 workers ready, reloading')
    t.is(await manager.show('web.service', 'ActiveState'), 'reloading')
    writeFileSync(gate, '')
    await reloaded
    await untilShown(manager, 'web.service', 'ActiveState', 'active')
    await until(() => childrenOf(Number(pid)).every(child => !before.includes(child)), 'new workers only')
    t.is(await manager.show('web.service', 'StatusText'), '2 of 2 workers ready')
    // While it restarts a client waits in systemd's socket
    const restarted = manager.systemctl('restart', 'web.service')
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(path)))
    await restarted
    const now = await manager.show('web.service', 'MainPID')
    t.true(answers.every(answer => answer === pid || answer === now))
    t.is(await ask(path), now)
    await manager.systemctl('stop', 'web.socket', 'web.service')
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  }
)

managed(
  'a supervisor whose workers need longer than the unit allows asks for more; one that never gets ready fails by its own limit',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const options = JSON.stringify({ readyTimeout: 2000, restart: undefined })
    manager.unit('never.service', {
      Service: {
        Type: 'notify',
        Environment: 'NEVER_READY=1',
        TimeoutStartSec: '1s',
        ExecStart: `${process.execPath} ${preforked} ${path} '${options}'`
      }
    })
    await t.throwsAsync(manager.systemctl('start', 'never.service'))
    t.is(await stateOf(manager, 'never.service'), 'failed exit-code')
  }
)

managed(
  'a takeover in a service of an ordinary user: USR2, the new main process, stop; one from outside is refused',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const takeover = join(manager.folder, 'takeover')
    const options = JSON.stringify({ takeover })
    manager.unit('web.socket', { Socket: { ListenStream: path, FileDescriptorName: 'http' } })
    manager.unit('web.service', {
      Service: {
        Type: 'notify',
        NotifyAccess: 'all',
        ExecStart: `${process.execPath} ${preforked} /nowhere '${options}' '{"upgrade":true}'`,
        ExecReload: '/bin/kill -USR2 $MAINPID',
        KillMode: 'mixed',
        WatchdogSec: '5s'
      }
    })
    await manager.systemctl('start', 'web.socket', 'web.service')
    let pid = await manager.show('web.service', 'MainPID')
    for (let deploy = 1; deploy <= 2; deploy++) {
      t.is(await ask(path), pid)
      await manager.systemctl('reload', 'web.service')
      await untilOther(manager, 'web.service', 'MainPID', pid)
      await until(() => !lives(Number(pid)), 'the predecessor ends')
      pid = await manager.show('web.service', 'MainPID')
      t.is(await ask(path), pid)
      t.is(await stateOf(manager, 'web.service'), 'active success')
      await untilShown(manager, 'web.service', 'StatusText', '2 of 2 workers ready')
    }
    const outside = start(process.execPath, [preforked, path, options], { uid: USER, gid: USER })
    const { code, stderr } = await outside.exit
    t.is(code, 1)
    t.regex(stderr, new RegExp(`ERR_PASSFD_TAKEOVER_UNIT|Process ${pid} is the service web\\.service`))
    t.is(await ask(path), pid)
    await manager.systemctl('stop', 'web.socket', 'web.service')
    await until(() => !lives(Number(pid)), 'the successor ends')
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  },
  { uid: USER }
)

managed(
  'a unit of passfd: what it prints starts, with arguments of all kinds; it is seen by its name, reloads and stops',
  async (t, manager) => {
    const folder = join(manager.folder, 'my $shop 50% ')
    mkdirSync(folder)
    const path = join(manager.folder, 'web.sock')
    const source = `require('http').createServer((_, response) => response.end(JSON.stringify([process.argv.slice(2), process.cwd()]))).listen(process.argv[2])`
    writeFileSync(join(folder, 'server.js'), source)
    const words = [
      path,
      'a b',
      '50%',
      '%n',
      '$HOME',
      '$' + '{HOME}',
      'q"\'\\',
      '',
      ';',
      '#',
      'a\tb\nc\rd\x01\x7f',
      'ä€😀',
      '--x=y',
      '-w'
    ]
    const passfd = fileURLToPath(new URL('../../dist/cli/passfd.mjs', import.meta.url))
    const unit = execFileSync(
      process.execPath,
      [passfd, 'unit', '--per-user', '--name', 'shop', '-w', '2', 'server.js', ...words],
      {
        cwd: folder,
        encoding: 'utf8'
      }
    )
    writeFileSync(join(manager.folder, 'config/systemd/user/shop.service'), unit)
    await manager.systemctl('start', 'shop.service')
    t.is(await manager.show('shop.service', 'StatusText'), '2 of 2 workers ready')
    t.deepEqual(JSON.parse(await ask(path)), [words, folder])
    const runtime = join(manager.folder, 'run/shop')
    const run = (...args: string[]): string =>
      execFileSync(process.execPath, [passfd, ...args], {
        env: { ...process.env, PASSFD_RUNTIME_DIR: runtime },
        encoding: 'utf8'
      })
    t.is(JSON.parse(run('status', 'shop', '--json')).workers.length, 2)
    const pid = await manager.show('shop.service', 'MainPID')
    const before = childrenOf(Number(pid))
    await manager.systemctl('reload', 'shop.service')
    await until(() => childrenOf(Number(pid)).every(child => !before.includes(child)), 'new workers only')
    await manager.systemctl('stop', 'shop.service')
    t.is(await stateOf(manager, 'shop.service'), 'inactive success')
  }
)

managed(
  'a unit of passfd with --takeover: systemctl reload replaces passfd serve, HUP its workers; a successor that fails leaves it',
  async (t, manager) => {
    const folder = join(manager.folder, 'shop')
    const path = join(manager.folder, 'web.sock')
    mkdirSync(folder)
    const server = (version: string): void =>
      writeFileSync(
        join(folder, 'server.js'),
        `require('http').createServer((_, response) => response.end('${version}')).listen(${JSON.stringify(path)})`
      )
    server('one')
    const passfd = fileURLToPath(new URL('../../dist/cli/passfd.mjs', import.meta.url))
    const words = ['--per-user', '--name', 'shop', '-w', '2', '--takeover', '--ready-timeout', '10s', 'server.js']
    const unit = execFileSync(process.execPath, [passfd, 'unit', ...words], { cwd: folder, encoding: 'utf8' })
    writeFileSync(join(manager.folder, 'config/systemd/user/shop.service'), unit)
    await manager.systemctl('start', 'shop.service')
    let pid = await manager.show('shop.service', 'MainPID')
    t.is(await ask(path), 'one')
    for (const version of ['two', 'three']) {
      server(version)
      await manager.systemctl('reload', 'shop.service')
      await untilOther(manager, 'shop.service', 'MainPID', pid)
      await gone(Number(pid))
      pid = await manager.show('shop.service', 'MainPID')
      t.is(await ask(path), version)
      await untilShown(manager, 'shop.service', 'StatusText', '2 of 2 workers ready')
      t.is(await stateOf(manager, 'shop.service'), 'active success')
    }
    const before = childrenOf(Number(pid))
    server('four')
    await manager.systemctl('kill', '-s', 'HUP', '--kill-whom=main', 'shop.service')
    await until(() => childrenOf(Number(pid)).every(child => !before.includes(child)), 'new workers only')
    t.is(await ask(path), 'four')
    // Of the main process: the successor has its name, too
    const runtime = join(manager.folder, 'run/shop')
    const status = execFileSync(process.execPath, [passfd, 'status', 'shop', '--json'], {
      env: { ...process.env, PASSFD_RUNTIME_DIR: runtime },
      uid: USER,
      encoding: 'utf8'
    })
    t.is(`${JSON.parse(status).pid}`, pid)
    writeFileSync(join(folder, 'server.js'), 'process.exit(3)')
    await manager.systemctl('reload', 'shop.service')
    await untilShown(manager, 'shop.service', 'ActiveState', 'active')
    t.is(await manager.show('shop.service', 'MainPID'), pid)
    t.is(await ask(path), 'four')
    // It crashes: the next one finds nobody
    server('five')
    process.kill(Number(pid), 'SIGKILL')
    await untilShown(manager, 'shop.service', 'NRestarts', '1')
    await untilShown(manager, 'shop.service', 'ActiveState', 'active')
    t.is(await ask(path), 'five')
    await manager.systemctl('stop', 'shop.service')
    t.is(await stateOf(manager, 'shop.service'), 'inactive success')
  },
  { uid: USER }
)

managed(
  'a takeover in a service is a reload until the successor serves, or has failed; also if only the main process may notify',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const options = JSON.stringify({ takeover: join(manager.folder, 'takeover'), readyTimeout: 20_000 })
    const gate = join(manager.folder, 'gate')
    const program = programIn(manager)
    const state = (wanted: string): Promise<void> => untilShown(manager, 'web.service', 'ActiveState', wanted)
    for (const access of ['all', 'main']) {
      writeFileSync(gate, '')
      manager.unit('web.service', {
        Service: {
          Type: 'notify',
          NotifyAccess: access,
          Environment: `GATE=${gate}`,
          ExecStart: `${process.execPath} ${program.path} ${path} '${options}' '{"upgrade":true}'`,
          KillMode: 'mixed'
        }
      })
      await manager.systemctl('daemon-reload')
      await manager.systemctl('start', 'web.service')
      const pid = await manager.show('web.service', 'MainPID')
      rmSync(gate)
      const upgrade = () => manager.systemctl('kill', '-s', 'USR2', '--kill-whom=main', 'web.service')
      await upgrade()
      await state('reloading')
      t.is(await manager.show('web.service', 'MainPID'), pid)
      writeFileSync(gate, '')
      await state('active')
      const next = await manager.show('web.service', 'MainPID')
      t.not(next, pid)
      t.is(await ask(path), next)
      await gone(Number(pid))
      // The next one does not start
      rmSync(gate)
      program.fails()
      await upgrade()
      await state('reloading')
      writeFileSync(gate, '')
      await state('active')
      t.is(await manager.show('web.service', 'MainPID'), next)
      t.is(await ask(path), next)
      program.works()
      await manager.systemctl('stop', 'web.service')
      t.is(await stateOf(manager, 'web.service'), 'inactive success')
    }
  }
)

/** A copy of the program, which fails at its start while it is told to. It waits for the gate first. */
function programIn(manager: Manager): { path: string; fails(): void; works(): void } {
  const path = join(manager.folder, 'program.mjs')
  const source = readFileSync(preforked, 'utf8').replaceAll(
    '../../build',
    fileURLToPath(new URL('../../build', import.meta.url))
  )
  const failing = `
import { existsSync, watch } from 'node:fs'
import { dirname } from 'node:path'
const watcher = watch(dirname(process.env.GATE), look)
function look() {
  if (existsSync(process.env.GATE)) process.exit(3)
}
look()`
  const works = (): void => writeFileSync(path, source)
  works()
  return { path, works, fails: () => writeFileSync(path, failing) }
}

managedByNewer('Type=notify-reload: the signal, RELOADING=1 with its time, READY=1', async (t, manager) => {
  t.regex(await manager.version(), /^25[4-9]/)
  manager.unit('plain.service', { Service: { Type: 'notify-reload' } })
  const service = await started(manager, 'plain.service')
  await service.run(`
    kept.times = 0
    process.on('SIGHUP', async () => {
      kept.times++
      await systemd.notify({ reloading: true, status: 'reloads' })
    })
    await systemd.notify({ ready: true })`)
  await untilShown(manager, 'plain.service', 'ActiveState', 'active')
  for (const times of [1, 2]) {
    const reloaded = manager.systemctl('reload', 'plain.service')
    await untilShown(manager, 'plain.service', 'SubState', 'reload-notify')
    await service.run("await systemd.notify({ ready: true, status: '' })")
    await reloaded
    t.is(await service.run('return kept.times'), times)
    t.is(await stateOf(manager, 'plain.service'), 'active success')
  }
})

managedByNewer(
  'a supervisor with Type=notify-reload: systemctl reload ends when all workers are replaced, or the reload has failed',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const gate = join(manager.folder, 'gate')
    const program = programIn(manager)
    writeFileSync(gate, '')
    manager.unit('web.service', {
      Service: {
        Type: 'notify-reload',
        Environment: `GATE=${gate}`,
        ExecStart: `${process.execPath} ${program.path} ${path}`,
        KillMode: 'mixed',
        WatchdogSec: '5s'
      }
    })
    await manager.systemctl('start', 'web.service')
    const pid = Number(await manager.show('web.service', 'MainPID'))
    const reload = async (): Promise<void> => {
      const before = childrenOf(pid)
      rmSync(gate)
      const reloaded = manager.systemctl('reload', 'web.service')
      await untilShown(manager, 'web.service', 'SubState', 'reload-notify')
      t.is(await manager.show('web.service', 'StatusText'), '2 of 2 workers ready, reloading')
      t.true(before.every(lives))
      writeFileSync(gate, '')
      await reloaded
      t.is(await manager.show('web.service', 'StatusText'), '2 of 2 workers ready')
      t.is(await stateOf(manager, 'web.service'), 'active success')
      await until(() => childrenOf(pid).every(child => !before.includes(child)), 'new workers only')
    }
    await reload()
    await reload()
    // A reload has begun already: systemd waits for its end, and then for another one
    const before = childrenOf(pid)
    rmSync(gate)
    process.kill(pid, 'SIGHUP')
    await untilShown(manager, 'web.service', 'ActiveState', 'reloading')
    const reloaded = manager.systemctl('reload', 'web.service')
    writeFileSync(gate, '')
    await reloaded
    await until(() => childrenOf(pid).every(child => !before.includes(child)), 'new workers only')
    await until(() => childrenOf(pid).length === 2, 'the end of the old workers')
    const now = childrenOf(pid)
    program.fails()
    await manager.systemctl('reload', 'web.service')
    t.is(await stateOf(manager, 'web.service'), 'active success')
    t.deepEqual(childrenOf(pid), now)
    t.is(await ask(path), `${pid}`)
    await manager.systemctl('stop', 'web.service')
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  }
)

managedByNewer(
  'Type=notify-reload with ReloadSignal=USR2: systemctl reload ends when the successor is the main process',
  async (t, manager) => {
    const path = join(manager.folder, 'web.sock')
    const options = JSON.stringify({ takeover: join(manager.folder, 'takeover') })
    const program = programIn(manager)
    const gate = join(manager.folder, 'gate')
    writeFileSync(gate, '')
    manager.unit('web.service', {
      Service: {
        Type: 'notify-reload',
        NotifyAccess: 'all',
        ReloadSignal: 'SIGUSR2',
        Environment: `GATE=${gate}`,
        ExecStart: `${process.execPath} ${program.path} ${path} '${options}' '{"upgrade":true}'`,
        KillMode: 'mixed',
        WatchdogSec: '5s'
      }
    })
    await manager.systemctl('start', 'web.service')
    let pid = await manager.show('web.service', 'MainPID')
    for (let deploy = 1; deploy <= 3; deploy++) {
      await manager.systemctl('reload', 'web.service')
      const next = await manager.show('web.service', 'MainPID')
      t.not(next, pid)
      t.is(await ask(path), next)
      t.is(await stateOf(manager, 'web.service'), 'active success')
      await gone(Number(pid))
      pid = next
    }
    program.fails()
    await manager.systemctl('reload', 'web.service')
    t.is(await manager.show('web.service', 'MainPID'), pid)
    t.is(await ask(path), pid)
    t.is(await stateOf(manager, 'web.service'), 'active success')
    await manager.systemctl('stop', 'web.service')
    await gone(Number(pid))
    t.is(await stateOf(manager, 'web.service'), 'inactive success')
  },
  { uid: USER }
)

managedByNewer('$FDSTORE is the size of the store; it may outlive a stop; NOTIFYACCESS', async (t, manager) => {
  // systemd forgets an inactive unit, and its store, unless another unit refers to it
  manager.unit('state.socket', { Socket: { ListenStream: join(manager.folder, 'state.sock') } })
  manager.unit('state.service', {
    Service: { Type: 'notify', FileDescriptorStoreMax: '3', FileDescriptorStorePreserve: 'yes', NotifyAccess: 'all' }
  })
  manager.unit('none.service', { Service: { Type: 'notify' } })
  await manager.systemctl('start', 'state.socket')
  let service = await started(manager, 'state.service')
  t.is(await service.run('await systemd.notify({ ready: true }); return process.env.FDSTORE'), '3')
  const store = `return systemd.storeDescriptor('one', passfd.Descriptor.memfd('one')).catch(({ code }) => code)`
  // One place is for the pipe that shows whether systemd takes it
  t.deepEqual([await service.run(store), await service.run(store), await service.run(store)], [true, true, true])
  // It closes what it refuses some time later, in a process of its own
  for (let tries = 0; tries < 50; tries++) t.is(await service.run(store), 'ERR_PASSFD_STORE_REFUSED')
  t.is(await manager.show('state.service', 'NFileDescriptorStore'), '3')
  await service.run(`
    await systemd.notify({ notifyAccess: 'none' })
    await systemd.notify({ status: 'not heard' })
    await systemd.barrier()`)
  t.is(await manager.show('state.service', 'StatusText'), '')
  await manager.systemctl('stop', 'state.service')
  t.is(await manager.show('state.service', 'NFileDescriptorStore'), '3')
  service = await started(manager, 'state.service')
  t.deepEqual(
    await service.run(
      'await systemd.notify({ ready: true }); return systemd.activatedSockets().map(({ name }) => name).sort()'
    ),
    ['one', 'one', 'one', 'state.socket']
  )
  await manager.systemctl('stop', 'state.service')
  await manager.systemctl('clean', '--what=fdstore', 'state.service')
  t.is(await manager.show('state.service', 'NFileDescriptorStore'), '0')
  const none = await started(manager, 'none.service')
  t.is(await none.run('return process.env.FDSTORE'), null)
})
