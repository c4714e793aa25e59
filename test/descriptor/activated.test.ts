/** Sockets and stored descriptors from a service manager; test/systemd/manager.test.ts has them from a real one. */
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../src/index.ts'
import { socketPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

const fixture = fileURLToPath(new URL('../fixtures/activated.mjs', import.meta.url))

interface Given {
  /** What becomes LISTEN_FDS; default: as many as there are. */
  fds?: string
  names?: string | undefined
  /** Default: the process itself. */
  pid?: string
  pidfdId?: string
}

/** Runs the source in a process that is given these descriptors. */
async function run(source: string, descriptors: readonly Descriptor[], given: Given = {}): Promise<any> {
  const { fds = `${descriptors.length}`, names, pid = '$$', pidfdId } = given
  const variables = { LISTEN_FDS: fds, LISTEN_FDNAMES: names, LISTEN_PIDFDID: pidfdId }
  const set = Object.entries(variables).flatMap(([name, value]) =>
    value === undefined ? [] : [`export ${name}='${value}'`]
  )
  // The pid is the same after exec
  const script = [...set, `export LISTEN_PID=${pid}`, `exec "${process.execPath}" "${fixture}" "$1"`].join('\n')
  const stdio = ['ignore', 'pipe', 'pipe', ...descriptors.map(descriptor => descriptor.borrow())] as const
  const running = start('/bin/sh', ['-c', script, 'sh', source], { stdio: [...stdio] })
  const line = await running.line()
  const { code, stderr } = await running.exit
  if (code !== 0 || stderr !== '') throw new Error(`${code} ${stderr}`)
  return JSON.parse(line)
}

async function withSome(work: (descriptors: Descriptor[]) => Promise<void>): Promise<void> {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const descriptors = [listener, Descriptor.memfd('one'), Descriptor.memfd('two')]
  try {
    await work(descriptors)
  } finally {
    for (const descriptor of descriptors) descriptor.close()
  }
}

const LIST = `
  const left = () => Object.keys(process.env).filter(name => name.startsWith('LISTEN_'))
  const list = options => systemd.activatedSockets(options).map(({ name, descriptor }) => name + ' ' + descriptor.kind)`

test('all of them in order, once; close-on-exec; the environment without the variables, or with them', t =>
  withSome(async descriptors => {
    const kinds = ['a tcp-listener', 'b memfd', 'a memfd']
    t.deepEqual(await run(`${LIST}; return [list(), list(), left()]`, descriptors, { names: 'a:b:a' }), [kinds, [], []])
    const [first, second, left] = await run(
      `${LIST}; return [list({ keepEnvironment: true }), list(), left()]`,
      descriptors,
      {
        names: 'a:b:a'
      }
    )
    t.deepEqual([first, second, left.sort()], [kinds, [], ['LISTEN_FDNAMES', 'LISTEN_FDS', 'LISTEN_PID']])
    const flags = await run(
      `
      const { readFileSync } = await import('node:fs')
      const flags = fd => (parseInt(/flags:\\s*(\\d+)/.exec(readFileSync('/proc/self/fdinfo/' + fd, 'utf8'))[1], 8) & 0o2000000) !== 0
      return systemd.activatedSockets().map(({ descriptor }) => flags(descriptor.borrow()))`,
      descriptors
    )
    t.deepEqual(flags, [true, true, true])
    const unnamed = await run(`${LIST}; return list()`, descriptors.slice(1))
    t.deepEqual(unnamed, ['unknown memfd', 'unknown memfd'])
  }))

test('those of another process are left alone, with the variables', t =>
  withSome(async descriptors => {
    for (const given of [{ pid: '1' }, { pid: '' }, { pid: 'x' }, { pidfdId: '1' }, { fds: '0' }]) {
      const [found, left] = await run(`${LIST}; return [list(), left()]`, given.fds === '0' ? [] : descriptors, given)
      t.deepEqual(found, [], JSON.stringify(given))
      t.is(left.length > 0, given.fds !== '0', JSON.stringify(given))
    }
    const own = `
      const { statSync, statfsSync } = await import('node:fs')
      const pidfd = passfd.Descriptor.pidfd(process.pid)
      if (statfsSync('/proc/self/fd/' + pidfd.borrow()).type === 0x50494446)
        process.env.LISTEN_PIDFDID = String(statSync('/proc/self/fd/' + pidfd.borrow(), { bigint: true }).ino)
      pidfd.close()
      ${LIST}; return list()`
    t.is((await run(own, descriptors)).length, 3)
  }))

test('wrong variables are an error, and nothing is taken', t =>
  withSome(async descriptors => {
    const wrong: [Given, RegExp][] = [
      [{ fds: '400' }, /descriptor \d+ is Node's own/],
      [{ fds: '4' }, /LISTEN_FDS is 4, but descriptor 6 is Node's own/],
      [{ fds: 'three' }, /LISTEN_FDS is "three", and not a number/],
      [{ fds: '-1' }, /LISTEN_FDS is "-1"/],
      [{ fds: '99999999999' }, /not a number/],
      [{ names: 'a:b' }, /LISTEN_FDS is 3, but LISTEN_FDNAMES has 2 names/],
      [{ names: 'a:b:c:d' }, /has 4 names/]
    ]
    for (const [given, says] of wrong) {
      const [first, second, kinds] = await run(
        `
        const attempt = () => { try { return systemd.activatedSockets().length } catch ({ code, message }) { return { code, message } } }
        const results = [attempt(), attempt()]
        const { Descriptor } = passfd
        return [...results, [3, 4, 5].map(fd => Descriptor.adopt(fd).kind)]`,
        descriptors,
        given
      )
      t.is(first.code, 'ERR_PASSFD_ACTIVATION')
      t.regex(first.message, says)
      t.deepEqual(second, first)
      t.deepEqual(kinds, ['tcp-listener', 'memfd', 'memfd'], 'nobody has them')
    }
  }))

test('they are one thread’s: another one, with its copy of the environment, never gets a number that was used again', t =>
  withSome(async descriptors => {
    const door = new URL('../../build/dist/systemd/index.js', import.meta.url).href
    const worker = `
      const { once } = await import('node:events')
      const { Worker } = await import('node:worker_threads')
      const source = \`
        Promise.all([import('node:worker_threads'), import(${JSON.stringify(door)})]).then(([{ parentPort }, systemd]) => {
          parentPort.on('message', options => {
            try {
              parentPort.postMessage(systemd.activatedSockets(options).length)
            } catch ({ code }) {
              parentPort.postMessage(code)
            }
          })
          parentPort.postMessage('loaded')
        })\`
      const worker = new Worker(source, { eval: true })
      await once(worker, 'message')
      const ask = async options => {
        worker.postMessage(options)
        return (await once(worker, 'message'))[0]
      }
      const own = options => { try { return systemd.activatedSockets(options) } catch ({ code }) { return code } }
      const { openSync, fstatSync } = await import('node:fs')`
    for (const keepEnvironment of [false, true])
      t.deepEqual(
        await run(
          `${worker}
          for (const { descriptor } of own({ keepEnvironment: ${keepEnvironment} })) descriptor.close()
          const again = [openSync('/dev/null'), openSync('/dev/null'), openSync('/dev/null')]
          const found = [await ask({ keepEnvironment: ${keepEnvironment} }), await ask({})]
          await worker.terminate()
          return [again, found, again.map(fd => fstatSync(fd).isCharacterDevice())]`,
          descriptors
        ),
        [
          [3, 4, 5],
          ['ERR_PASSFD_ACTIVATION', 'ERR_PASSFD_ACTIVATION'],
          [true, true, true]
        ]
      )
    // The thread that asks first gets them. They end with it
    t.deepEqual(
      await run(
        `${worker}
        const found = [await ask({}), own({})]
        await worker.terminate()
        const again = [openSync('/dev/null'), openSync('/dev/null'), openSync('/dev/null')]
        return [...found, again, own({}), again.map(fd => fstatSync(fd).isCharacterDevice())]`,
        descriptors
      ),
      [3, 'ERR_PASSFD_ACTIVATION', [3, 4, 5], 'ERR_PASSFD_ACTIVATION', [true, true, true]]
    )
    // What was wrong may be put right: nobody has them yet
    t.deepEqual(
      await run(
        `${worker}
        const found = [own({}), await ask({})]
        process.env.LISTEN_FDS = '3'
        await worker.terminate()
        return [...found, own({}).length]`,
        descriptors,
        { fds: 'x' }
      ),
      ['ERR_PASSFD_ACTIVATION', 'ERR_PASSFD_ACTIVATION', 3]
    )
  }))

test('another copy of passfd, with a native part of its own, gets none of them', t =>
  withSome(async descriptors => {
    const other = new URL('../../dist/systemd/index.js', import.meta.url).href
    const found = await run(
      `
      const { copyFileSync, openSync, fstatSync, readFileSync } = await import('node:fs')
      const [shim] = /\\/\\S+\\.node$/m.exec(readFileSync('/proc/self/maps', 'utf8'))
      copyFileSync(shim, process.env.PASSFD_SHIM = ${JSON.stringify(`${socketPath()}.node`)})
      const copy = await import(${JSON.stringify(other)})
      const attempt = ({ activatedSockets }) => { try { return activatedSockets({ keepEnvironment: true }) } catch ({ code }) { return code } }
      const own = attempt(systemd)
      const held = attempt(copy)
      for (const { descriptor } of own) descriptor.close()
      const again = [openSync('/dev/null'), openSync('/dev/null'), openSync('/dev/null')]
      return [own.length, held, again, attempt(copy), again.map(fd => fstatSync(fd).isCharacterDevice())]`,
      descriptors
    )
    const code = 'ERR_PASSFD_ACTIVATION'
    t.deepEqual(found, [3, code, [3, 4, 5], code, [true, true, true]])
  }))

test('what a store has kept is no socket: the address beside the name is bound, at the first start and at the next', t =>
  withSome(async ([listener, one, two]) => {
    const bind = `return passfd.Descriptor.bind({ activated: 'http', port: 0, host: '127.0.0.1' }).then(({ kind }) => kind)`
    const { readable, writable } = Descriptor.pipe()
    const [left, right] = Descriptor.socketpair()
    const kept = [one!, two!, readable, left]
    const names = 'a:b:c:d'
    t.is(await run(bind, kept, { names }), 'tcp-listener')
    t.like(await run(`return passfd.Descriptor.bind({ activated: 'http' })`, kept, { names }), {
      code: 'ERR_PASSFD_ACTIVATED_NONE'
    })
    t.is(
      await run(`const { kind } = await passfd.Descriptor.bind({ activated: 'a', port: 0 }); return kind`, kept, {
        names
      }),
      'memfd'
    )
    const seat = `
      const supervisor = new Supervisor({ entry: '/none', listeners: { web: { activated: 'http', port: 0, host: '127.0.0.1' } }, workers: 1, restart: () => ({ restart: false, reason: 'no' }) })
      return supervisor.start().catch(({ code }) => code)`
    t.not(await run(seat, kept, { names }), 'ERR_PASSFD_ACTIVATED_MISSING')
    // A listener may be one of a socket unit whose name is another one
    t.like(await run(bind, [...kept, listener!], { names: `${names}:e` }), { code: 'ERR_PASSFD_ACTIVATED_MISSING' })
    for (const each of [readable, writable, left, right]) each.close()
  }))

test('what an error repeats of the environment is short, and safe to print', t =>
  withSome(async descriptors => {
    const attempt = `
      const bind = () => passfd.Descriptor.bind({ activated: 'web' })
      const message = await bind().catch(({ message }) => message)`
    const shown = async (given: Given): Promise<string> => run(`${attempt}; return message`, descriptors, given)
    const control = 'a\u001b[31m\nb'
    for (const given of [
      { fds: control },
      { fds: '9'.repeat(5000) },
      { names: `${control}:b:c` },
      { names: `${'n'.repeat(5000)}:b:c` }
    ]) {
      const message = await shown(given)
      t.notRegex(message, /\p{Cc}/u)
      t.true(message.length < 1000, message)
    }
    t.is(await run(`${LIST}; return list()`, descriptors, { pid: '0x$(printf %x $$)' }).then(({ length }) => length), 0)
  }))

test('by name: Descriptor.bind, listen, joinSupervisor, takeOver, Supervisor; and what to bind without a manager', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const address = await withPort(listener)
  const admin = await Descriptor.bind({ path: socketPath() })
  const given = { names: 'http:admin' }
  const both = [listener, admin]
  t.deepEqual(
    await run(
      `
      const { Descriptor, listen } = passfd
      const found = await Descriptor.bind({ activated: 'http', port: 1 })
      const server = await listen({ activated: 'admin' })
      const { connect } = await import('node:net')
      const again = await Descriptor.bind({ activated: 'http' }).catch(({ code, message }) => code + message)
      await server.close()
      const { kind } = found
      found.close()
      return [kind, again, systemd.activatedSockets().length]`,
      both,
      given
    ),
    [
      'tcp-listener',
      'ERR_PASSFD_ACTIVATED_MISSING' +
        'The service manager has given a socket named http, and another part of this program has taken it. Use what it has returned there.',
      0
    ]
  )
  t.deepEqual(
    await run(
      `
      const { createServer } = await import('node:http')
      const worker = await joinSupervisor({ standalone: { web: { activated: 'http', port: 1 } } })
      const server = createServer((_, response) => response.end('served'))
      await worker.listen('web', server)
      setImmediate(() => process.exit())
      return server.address().port`,
      both,
      given
    ),
    address.port
  )
  const name = `passfd-activated-${process.pid}`
  t.deepEqual(
    await run(
      `
      const supervisor = new Supervisor({ entry: '/none', listeners: { web: { activated: 'http' } }, workers: 1, readyTimeout: 100, restart: () => ({ restart: false, reason: 'no' }) })
      const { addresses } = supervisor
      const failed = await supervisor.start().catch(({ code }) => code)
      return [failed, systemd.activatedSockets().map(({ name }) => name)]`,
      both,
      given
    ),
    ['ERR_PASSFD_WORKER_NOT_READY', ['admin']]
  )
  t.deepEqual(
    await run(
      `
      const seat = await takeOver({ path: '/tmp/${name}', listeners: { web: { activated: 'http' } }, signals: false, exit: false })
      const kind = seat.descriptor('web').kind
      await seat.ready()
      await seat.stop()
      return kind`,
      both,
      given
    ),
    'tcp-listener'
  )
  const missing = `return passfd.Descriptor.bind({ activated: 'web', port: 0, host: '127.0.0.1' }).then(({ kind }) => kind)`
  t.like(await run(missing, both, given), { code: 'ERR_PASSFD_ACTIVATED_MISSING' })
  t.regex((await run(missing, both, given)).message, /no socket named web; it has given: http, admin\./)
  t.like(await run(missing, both, { names: 'web:web' }), { code: 'ERR_PASSFD_ACTIVATED_SEVERAL' })
  t.is(await run(missing, [], { pid: '1' }), 'tcp-listener')
  const none = `return passfd.Descriptor.bind({ activated: 'web' })`
  t.like(await run(none, [], { pid: '1' }), { code: 'ERR_PASSFD_ACTIVATED_NONE' })
  // npm, or a shell, was started in its place
  const wrapped = await run(none, both, { pid: '1' })
  t.is(wrapped.code, 'ERR_PASSFD_ACTIVATED_NONE')
  t.regex(wrapped.message, /sockets to process 1 .*and this one is process \d+.* ExecStart=/)
  const odd = await run(none, both, { pid: '"$(printf \'a\\033\\nb\')"' })
  t.notRegex(odd.message, /\p{Cc}/u)
  const wrong = [
    { activated: 1 },
    { activated: 'a:b' },
    { activated: '' },
    { activated: 'http', port: -1 },
    { activated: 'http', prot: 1 }
  ]
  for (const spec of wrong)
    t.like(await run(`return passfd.Descriptor.bind(${JSON.stringify(spec)})`, both, given), {
      code: 'ERR_PASSFD_INVALID_ARGUMENT'
    })
  for (const each of both) each.close()
})

async function withPort(listener: Descriptor): Promise<{ port: number }> {
  const server = await listener.dup().toServer()
  const address = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return address
}
