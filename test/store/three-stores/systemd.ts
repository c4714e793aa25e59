/** What the table says of systemd's store: sd_notify(3), "FDSTORE=1"; systemd.service(5), "FileDescriptorStoreMax="; sd_listen_fds(3). */
import type { ExecutionContext } from 'ava'
import { connect } from '../../../src/datagram/index.ts'
import { Descriptor } from '../../../src/index.ts'
import { type Manager, type Service, started, untilShown } from '../../helpers/systemd.ts'
import type { Cases } from './lines.ts'

export type Body = (t: ExecutionContext, manager: Manager) => Promise<void>

const UNIT = 'state.service'
/** systemd itself is silent. */
const REFUSED = { code: 'ERR_PASSFD_STORE_REFUSED' }
const doors = ['systemd/index.js', 'index.js'].map(door => new URL(`../../../build/dist/${door}`, import.meta.url).href)

/** Runs in the service: it has started, and what it finds. */
const FOUND = `
  await systemd.notify({ ready: true })
  kept.found ??= systemd.activatedSockets()
  return kept.found.map(({ name, descriptor }) => name + ' ' + descriptor.kind).sort()`

export const cases: Cases<Body> = {
  'who can use it': {
    says: 'the processes of one service',
    async shows(t, manager) {
      const service = await begun(manager, { NotifyAccess: 'all' })
      // A child of the main process
      await service.run(`
        const { execFileSync } = await import('node:child_process')
        const source = \`
          const [systemd, { Descriptor }] = await Promise.all(${JSON.stringify(doors)}.map(door => import(door)))
          await systemd.storeDescriptor('child', Descriptor.memfd())\`
        execFileSync(process.execPath, ['--input-type=module', '-e', source])`)
      t.is(await count(manager), '1')
      // A process of no service, though it is root's
      const outsider = await connect(await service.run('return process.env.NOTIFY_SOCKET'))
      await outsider.send('FDSTORE=1\nFDNAME=outsider', { descriptors: [Descriptor.memfd()] })
      await outsider.close()
      await service.run('await systemd.barrier()')
      t.is(await count(manager), '1')
      const other = await begun(manager, {}, 'other.service')
      t.deepEqual(await other.run(FOUND), [])
      t.deepEqual(await (await restarted(manager, service)).run(FOUND), ['child memfd'])
    }
  },

  'access by default': {
    says: 'nobody, its size is 0',
    async shows(t, manager) {
      manager.unit(UNIT, { Service: { Type: 'notify' } })
      const service = await started(manager, UNIT)
      await t.throwsAsync(service.run(store('x')), REFUSED)
      t.is(await manager.show(UNIT, 'FileDescriptorStoreMax'), '0')
      t.is(await count(manager), '0')
    }
  },

  names: {
    says: 'several descriptors may have one',
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(store('x'))
      await service.run(store('x'))
      t.deepEqual(await (await restarted(manager, service)).run(FOUND), ['x memfd', 'x memfd'])
    }
  },

  'a value beside it': {
    says: 'no',
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(message('FDSTORE=1\nFDNAME=x\nX_VALUE=secret', 1))
      const next = await restarted(manager, service)
      t.false(await next.run(`return Object.entries(process.env).join().includes('secret')`))
      t.deepEqual(await next.run(FOUND), ['x memfd'])
    }
  },

  'several descriptors together': {
    says: 'up to 253 in a message; each counts alone',
    async shows(t, manager) {
      const service = await begun(manager, { FileDescriptorStoreMax: '300' })
      await service.run(message('FDSTORE=1\nFDNAME=x', 253))
      t.is(await count(manager), '253')
      // Of what is too much, systemd keeps a part
      await service.run(message('FDSTORE=1\nFDNAME=x', 100))
      t.is(await count(manager), '300')
    }
  },

  'gets it back': {
    says: 'at its next start',
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(store('x'))
      t.deepEqual(await service.run('return systemd.activatedSockets()'), [])
      t.deepEqual(await (await restarted(manager, service)).run(FOUND), ['x memfd'])
    }
  },

  'a taken descriptor comes back if the taker dies': {
    says: 'a copy stays in the store',
    async shows(t, manager) {
      let service = await begun(manager)
      await service.run(store('x'))
      for (let times = 0; times < 2; times++) {
        service = await killed(manager, service)
        t.deepEqual(await service.run(FOUND), ['x memfd'])
        t.is(await count(manager), '1')
      }
    }
  },

  expiry: {
    says: 'no',
    async shows(t, manager) {
      // All settings that systemd.service(5) has of it: a size, and since 254 whether it outlives a stop
      const names = [...(await manager.described('Service')).matchAll(/<property name="(\w*FileDescriptorStore\w*)"/g)]
      const known = ['FileDescriptorStoreMax', 'FileDescriptorStorePreserve', 'NFileDescriptorStore']
      t.true(names.length >= 2)
      t.deepEqual(
        names.map(([, name]) => name!).filter(name => !known.includes(name)),
        []
      )
    }
  },

  'removal at hang-up': {
    says: 'an option; default for all', // FDPOLL=0 since 246: sd_notify(3)
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(`
        const { readable, writable } = passfd.Descriptor.pipe()
        const [one, other] = passfd.Descriptor.socketpair()
        const [third, fourth] = passfd.Descriptor.socketpair()
        await systemd.storeDescriptor('pipe', readable)
        await systemd.storeDescriptor('socket', one)
        await systemd.storeDescriptor('kept socket', third, { poll: false })
        await systemd.storeDescriptor('memory', passfd.Descriptor.memfd())
        for (const each of [readable, one, third]) each.close()
        kept.others = [writable, other, fourth]`)
      t.is(await count(manager), '4')
      await service.run('for (const each of kept.others) each.close()')
      await untilShown(manager, UNIT, 'NFileDescriptorStore', '2')
      t.deepEqual(await (await restarted(manager, service)).run(FOUND), ['kept socket unix-stream', 'memory memfd'])
    }
  },

  listing: {
    says: 'how many; with kinds since 254', // systemd-analyze(1), "fdstore"
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(store('x'))
      t.is(await count(manager), '1')
      const listing = manager.inside('systemd-analyze', '--user', 'fdstore', UNIT)
      if (Number.parseInt(await manager.version(), 10) < 254)
        return void (await t.throwsAsync(listing, { message: /Unknown command verb/ }))
      t.regex(await listing, /^x +reg .* \/memfd:/m)
    }
  },

  watching: {
    says: 'no',
    async shows(t, manager) {
      // The bus does not report that the number of descriptors has changed
      t.regex(
        await manager.described('Service'),
        /<property name="NFileDescriptorStore"[^>]*>\s*<annotation name="[\w.]*\.EmitsChangedSignal" value="false"\/>/
      )
    }
  },

  bounds: {
    says: 'for each service',
    async shows(t, manager) {
      const service = await begun(manager, { FileDescriptorStoreMax: '1' })
      await service.run(store('x'))
      await t.throwsAsync(service.run(store('y')), REFUSED)
      t.is(await count(manager), '1')
      const other = await begun(manager, { FileDescriptorStoreMax: '1' }, 'other.service')
      await other.run(store('x'))
      t.is(await count(manager, 'other.service'), '1')
    }
  },

  'all of it to another store': {
    says: 'no',
    async shows(t, manager) {
      // No method of the bus that is about the store returns descriptors: "h"
      for (const name of ['Manager', 'Service']) {
        const methods = (await manager.described(name)).match(
          /<method name="\w*FileDescriptorStore\w*">.*?<\/method>/gs
        )
        for (const method of methods ?? []) t.notRegex(method, /type="[^"]*h/)
      }
      t.pass()
    }
  },

  'survives the restart of a service': {
    says: 'yes',
    async shows(t, manager) {
      let service = await begun(manager)
      await service.run(store('x'))
      for (const again of [restarted, killed]) {
        service = await again(manager, service)
        t.deepEqual(await service.run(FOUND), ['x memfd'])
      }
    }
  },

  'survives a stop of the service': {
    says: 'since 254, an option', // systemd.service(5), "FileDescriptorStorePreserve="
    async shows(t, manager) {
      const isNewer = Number.parseInt(await manager.version(), 10) >= 254
      for (const [name, settings] of Object.entries({
        'state.service': {},
        'other.service': { FileDescriptorStorePreserve: 'yes' }
      })) {
        // systemd forgets an inactive service, and its store, unless another unit refers to it
        const socket = name.replace('.service', '.socket')
        manager.unit(socket, { Socket: { ListenStream: `${manager.folder}/${socket}` } })
        const service = await begun(manager, { ...settings, Sockets: socket }, name)
        await service.run(store('x'))
        await manager.systemctl('stop', name)
        const stays = isNewer && name === 'other.service'
        t.is(await count(manager, name), stays ? '1' : '0', name)
        const found: string[] = await (await started(manager, name)).run(FOUND)
        t.is(found.includes('x memfd'), stays, name)
      }
    }
  },

  'survives its own replacement': {
    says: 'yes (`daemon-reexec`)',
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(store('x'))
      await manager.systemctl('daemon-reexec')
      t.is(await count(manager), '1')
      t.deepEqual(await (await restarted(manager, service)).run(FOUND), ['x memfd'])
    }
  },

  'survives its own death': {
    says: 'no',
    async shows(t, manager) {
      const service = await begun(manager)
      await service.run(`
        const [one, other] = passfd.Descriptor.socketpair()
        await systemd.storeDescriptor('x', one)
        one.close()
        kept.socket = other.toSocket().resume()
        kept.ended = new Promise(resolve => kept.socket.once('end', resolve))`)
      await manager.kill()
      await service.run('await kept.ended') // nobody has the other end any more
      service.run('process.exit()').catch(() => {})
      await service.ended
      t.pass()
    }
  }
}

/** A service that has started. */
async function begun(manager: Manager, settings: Record<string, string> = {}, name = UNIT): Promise<Service> {
  manager.unit(name, {
    Service: { Type: 'notify', FileDescriptorStoreMax: '8', Restart: 'always', RestartSec: '0', ...settings },
    Unit: { StartLimitIntervalSec: '0' }
  })
  const service = await started(manager, name)
  await service.run('await systemd.notify({ ready: true }); await systemd.barrier()')
  return service
}

async function restarted(manager: Manager, { name }: Service): Promise<Service> {
  await manager.systemctl('restart', '--no-block', name)
  return manager.service(name)
}

async function killed(manager: Manager, { name, pid }: Service): Promise<Service> {
  process.kill(pid, 'SIGKILL')
  return manager.service(name)
}

async function count(manager: Manager, name = UNIT): Promise<string> {
  return manager.show(name, 'NFileDescriptorStore')
}

/** Stores memory. */
function store(name: string): string {
  return `await systemd.storeDescriptor('${name}', passfd.Descriptor.memfd())`
}

/** Sends a message with so many descriptors, and waits until systemd has read it. */
function message(text: string, descriptors: number): string {
  return `
    const manager = await datagram.connect(process.env.NOTIFY_SOCKET)
    const descriptors = Array.from({ length: ${descriptors} }, () => passfd.Descriptor.memfd())
    await manager.send(${JSON.stringify(text)}, { descriptors })
    await manager.close()
    await systemd.barrier()`
}
