/** Programs that know nothing of passfd: what they see is what Node shows them without it. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { connect, createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Balance, Supervisor } from '../../../src/prefork/index.ts'
import { isInCi } from '../../helpers/full.ts'
import { isWritten, temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { gone } from '../../helpers/processes.ts'
import { get, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, testInCiIf, until } from '../../helpers/test.ts'

const listens = fileURLToPath(new URL('../../fixtures/listens.cjs', import.meta.url))

type Results = Record<string, unknown>

function resultsOf(path: string): Results {
  return JSON.parse(readFileSync(path, 'utf8'))
}

/** Under dispatch a server listens on a socket that nobody can reach, so another one can't listen on its handle. */
const NOT_DISPATCHED = ['the handle of another server']

const BALANCES: Balance[] = isInCi ? ['per-worker', 'shared', { dispatch: 'round-robin' }] : ['per-worker']

test('every form of listen() and bind() comes out as without passfd', async t => {
  const folder = (): string => mkdtempSync(join(dirname(temporaryPath('x')), 'l-'))
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const plain = temporaryPath('plain')
  const alone = promisify(execFile)(process.execPath, [listens, plain, folder(), `${port}`])
  await until(() => isWritten(plain), 'the program alone')
  alone.child.kill()
  await alone.catch(() => {})
  const expected = resultsOf(plain)
  t.is(expected.failed, undefined)
  for (const balance of BALANCES) {
    const output = temporaryPath('output')
    const command: [string, ...string[]] = [process.execPath, listens, output, folder(), `${port}`]
    await supervising(
      t,
      { program: command, listeners: {}, balance, killTimeout: 100, stopTimeout: 1000 },
      async supervisor => {
        await supervisor.start()
        await until(() => isWritten(output), 'the program', 60)
        const actual = resultsOf(output)
        for (const [name, result] of Object.entries(expected))
          if (typeof balance === 'string' || !NOT_DISPATCHED.includes(name))
            t.deepEqual(actual[name], result, `${name}, ${JSON.stringify(balance)}`)
      }
    )
  }
  taken.close()
})

/** A Node program that is written when the test runs. */
/** Until its first worker has reported a request. One that does not wait has said before that it is ready. */
async function serves(supervisor: Supervisor): Promise<void> {
  await until(() => Object.keys(supervisor.addresses).length === 1, 'its listener')
  await get(supervisor, Object.keys(supervisor.addresses)[0])
  await until(() => supervisor.workers[0]!.requests === 1, 'its report')
}

/** Of a server at a Unix socket. */
function answerAt(socketPath: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => void request({ socketPath, agent: false }, resolve).on('error', reject).end())
}

function written(source: string, path?: string): [string, ...string[]] {
  return [process.execPath, program(source, path)]
}

const WEB =
  "const server = require('node:http').createServer((_request, response) => response.end(String(process.pid)))\n"
/** An ES module's own `require`. */
const REQUIRE = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)\n"

test('its own handlers are called at the stop, after its requests; server.close() then succeeds, and the program ends itself', async t => {
  const marks = temporaryPath('marks')
  const source = `${REQUIRE}
    const fs = require('node:fs')
    const mark = text => fs.appendFileSync(${JSON.stringify(marks)}, text + '\\n')
    const server = require('node:http').createServer((request, response) => {
      if (request.url === '/slow') process.once('SIGUSR2', () => { mark('answers'); response.end('slow') })
      else response.end('quick')
    })
    server.listen(0, '127.0.0.1')
    process.on('SIGTERM', () => {
      mark('handler')
      server.close(error => {
        mark('closed ' + error)
        process.exit(7)
      })
    })`
  await supervising(t, { program: written(source), listeners: {} }, async (supervisor, { exits }) => {
    await supervisor.start()
    const [name] = Object.keys(supervisor.addresses)
    const slow = get(supervisor, name, '/slow')
    await get(supervisor, name)
    const { pid } = supervisor.workers[0]!
    const stopped = supervisor.stop()
    await until(() => supervisor.workers[0]?.state === 'stopping', 'the stop')
    process.kill(pid!, 'SIGUSR2')
    t.is(await slow, 'slow')
    await stopped
    t.is(readFileSync(marks, 'utf8'), 'answers\nhandler\nclosed undefined\n')
    t.deepEqual(exits, ['0/1 7'])
  })
})

test('a program that ends by the exit code for TERM has stopped as it should, as `next start` does', async t => {
  const source = `${REQUIRE}${WEB}
    server.listen(0, '127.0.0.1')
    process.on('SIGTERM', () => process.exit(143))`
  await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
    const ends: unknown[] = []
    supervisor.on('exit', ({ stopped, reason }, code) => ends.push([code, stopped, reason]))
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(ends, [[143, true, 'it exited with code 143']])
  })
})

test('waitReady: it is ready when it says so; without a handler of its own it ends when its requests are done', async t => {
  const source = `${REQUIRE}${WEB}
    process.on('SIGUSR2', () => process.send('ready', undefined, undefined, () => {}))
    server.listen(0, '127.0.0.1')`
  await supervising(
    t,
    { program: written(source), listeners: {}, waitReady: true },
    async (supervisor, { of, exits }) => {
      const started = supervisor.start()
      await serves(supervisor)
      t.deepEqual(of(1), ['starting'])
      process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
      await started
      const [name] = Object.keys(supervisor.addresses)
      t.is(await get(supervisor, name), `${supervisor.workers[0]!.pid}`)
      await supervisor.stop()
      t.deepEqual(exits, ['0/1 0'])
    }
  )
})

test('waitReady: a program that does not listen is not ready, and the reason contains that', async t => {
  const options = { program: written(`process.send('ready'); setInterval(() => {}, 1000)`), listeners: {} }
  await supervising(t, { ...options, waitReady: true, readyTimeout: 300 }, async supervisor => {
    const message =
      /has not called listen\(\), which waitReady also requires, within 300 ms \(readyTimeout\), so passfd killed it\./
    await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY', message })
  })
})

testInCi('its environment may be another one when it listens, and an exception of its callback is handled', async t => {
  const source = `${REQUIRE}${WEB}
    process.env = Object.freeze({ SAID: process.env.PASSFD_SLOT })
    process.on('uncaughtException', () => {})
    process.on('SIGUSR2', () => process.send('ready'))
    server.listen(0, '127.0.0.1', () => { throw new Error('of the callback') })`
  for (const waitReady of [false, true])
    await supervising(t, { program: written(source), listeners: {}, waitReady }, async (supervisor, { of }) => {
      const started = supervisor.start()
      if (waitReady) {
        await serves(supervisor)
        t.deepEqual(of(1), ['starting'])
        process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
      }
      await started
      t.is(await get(supervisor, Object.keys(supervisor.addresses)[0]), `${supervisor.workers[0]!.pid}`)
      await supervisor.stop()
    })
})

testInCi('a UDP port that is a text, as of a variable, is shared, too', async t => {
  const source = `import { createSocket } from 'node:dgram'
    const socket = createSocket('udp4').on('message', (_, { port, address }) => socket.send('' + process.pid, port, address))
    socket.bind({ port: process.argv[2], address: '127.0.0.1' })`
  const port = await freePort()
  const command: [string, ...string[]] = [...written(source), `${port}`]
  await supervising(t, { program: command, listeners: {}, workers: 2 }, async supervisor => {
    await supervisor.start()
    t.deepEqual(Object.values(supervisor.addresses), [{ family: 'IPv4', address: '127.0.0.1', port }])
    await supervisor.stop()
  })
})

testInCi(
  'waitReady: sd_notify(3) says so, too, before or after it listens, and alone makes no worker ready',
  async t => {
    const datagrams = new URL('../../../dist/datagram/index.js', import.meta.url)
    const said = temporaryPath('said')
    const say = `import { bind } from '${datagrams}'
    import { writeFileSync } from 'node:fs'
    const { NOTIFY_SOCKET } = process.env
    const say = async text => {
      const socket = await bind(undefined, {})
      await socket.send(Buffer.from(text), { to: { abstract: NOTIFY_SOCKET.slice(1) } })
      await socket.close()
      writeFileSync('${said}', text)
    }
    const listens = () => new Promise(resolve => server.listen(0, '127.0.0.1', resolve))`
    const last = `process.on('SIGUSR2', () => void`
    for (const [first, second] of [
      [`await say('READY=1'); setInterval(() => {}, 1000)`, `${last} listens())`],
      [`await listens(); await say('STATUS=almost')`, `${last} say('READY=1'))`]
    ]) {
      rmSync(said, { force: true })
      const source = `${REQUIRE}${WEB}${say}\n${second}\n${first}`
      await supervising(t, { program: written(source), listeners: {}, waitReady: true }, async (supervisor, { of }) => {
        const started = supervisor.start()
        await until(() => isWritten(said), 'what it says')
        t.deepEqual(of(1), ['starting'])
        process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
        await started
        t.is(await get(supervisor, Object.keys(supervisor.addresses)[0]), `${supervisor.workers[0]!.pid}`)
        await supervisor.stop()
      })
    }
  }
)

testInCi(
  'behind npm the worker is the process that listens; its variables; processes that it starts are not the worker',
  async t => {
    const folder = mkdtempSync(join(dirname(temporaryPath('x')), 'npm-'))
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ scripts: { start: 'node server.cjs' } }))
    writeFileSync(
      join(folder, 'server.cjs'),
      `const { execFileSync } = require('node:child_process')
    require('node:http').createServer((_request, response) => {
      const { PASSFD_SLOT, NODE_APP_INSTANCE, PASSFD_DESK, NODE_OPTIONS } = process.env
      const child = execFileSync(process.execPath, ['-p', 'process.env.NODE_OPTIONS + " " + process.env.PASSFD_DESK'], { encoding: 'utf8' })
      response.end(JSON.stringify([process.pid, PASSFD_SLOT, NODE_APP_INSTANCE, PASSFD_DESK ?? null, NODE_OPTIONS ?? null, child.trim()]))
    }).listen(0, '127.0.0.1')`
    )
    const options = {
      program: ['npm', 'start', '--silent'] as [string, ...string[]],
      spawn: { cwd: folder, env: { ...process.env, NODE_OPTIONS: undefined } },
      listeners: {}
    }
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      const [name] = Object.keys(supervisor.addresses)
      const { pid } = supervisor.workers[0]!
      t.deepEqual(JSON.parse(await get(supervisor, name)), [pid, '0', '0', null, null, 'undefined undefined'])
      await supervisor.reload()
      const [now] = JSON.parse(await get(supervisor, name))
      t.is(now, supervisor.workers[0]!.pid)
      t.not(now, pid)
      await supervisor.stop()
      await gone(now)
    })
  }
)

test('the exit code of a wrapper counts that ends a while after the program, as npm does on a busy machine', async t => {
  const source = `${REQUIRE}${WEB}
    server.listen(0, '127.0.0.1')
    process.on('SIGUSR2', () => process.exit(0))`
  // Longer than a worker without its control channel has
  const command: [string, ...string[]] = ['/bin/sh', '-c', '"$0" "$1"; sleep 1.5; exit 7', ...written(source)]
  const options = { program: command, listeners: {}, restart: () => ({ restart: false as const, reason: 'once' }) }
  await supervising(t, options, async (supervisor, { exits }) => {
    supervisor.on('gaveUp', () => {})
    await supervisor.start()
    const exited = once(supervisor, 'exit')
    process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
    await exited
    t.deepEqual(exits, ['0/1 7'])
  })
})

testInCi('after a reload a listener that the new code does not use is closed and reported', async t => {
  const path = temporaryPath('changing.cjs').replace(/-(\d+)$/, '-$1.cjs')
  const source = (places: string[]): string =>
    `for (const path of ${JSON.stringify(places)}) require('node:http').createServer((_request, response) => response.end(path)).listen(path)`
  const [stays, goes, comes] = ['stays', 'goes', 'comes'].map(name => temporaryPath(name)) as [string, string, string]
  const command = written(source([stays, goes]), path)
  await supervising(t, { program: command, listeners: {} }, async supervisor => {
    const closed: unknown[] = []
    supervisor.on('listenerClosed', (...what) => closed.push(what))
    await supervisor.start()
    await until(() => supervisor.addresses[goes] !== undefined, 'the second listener')
    t.is(await get(supervisor, goes), goes)
    program(source([stays, comes]), path)
    await supervisor.reload()
    t.deepEqual(closed, [[goes, { path: goes }]])
    t.deepEqual(Object.keys(supervisor.addresses).sort(), [comes, stays].sort())
    t.is(await get(supervisor, comes), comes)
    t.false(existsSync(goes))
    await supervisor.stop()
  })
})

testInCi('what a program can not do under passfd is named: cluster, exclusive, and abstract names', async t => {
  const output = temporaryPath('errors')
  const source = `${REQUIRE}${WEB}
    import { writeFileSync } from 'node:fs'
    import cluster, { fork } from 'node:cluster'
    const errors = []
    for (const one of [fork, cluster.fork]) try { one() } catch (error) { errors.push(error.code) }
    process.on('warning', warning => {
      errors.push(warning.code)
      if (errors.length === 5) writeFileSync(${JSON.stringify(output)}, JSON.stringify(errors))
    })
    server.listen({ port: 0, exclusive: true })
    require('node:net').createServer().listen('\\0passfd-test-' + process.pid)
    const late = require('node:http').createServer().on('error', ({ code }) => process.emitWarning('', { code }))
    late.listen({ port: 1, host: '192.0.2.1' })`
  await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
    await supervisor.start()
    await until(() => isWritten(output), 'the warning')
    const [name] = Object.keys(supervisor.addresses)
    t.is(await get(supervisor, name), `${supervisor.workers[0]!.pid}`)
    t.deepEqual(JSON.parse(readFileSync(output, 'utf8')), [
      'ERR_PASSFD_PROGRAM_CLUSTER',
      'ERR_PASSFD_PROGRAM_CLUSTER',
      'ERR_PASSFD_PROGRAM_EXCLUSIVE',
      'ERR_PASSFD_PROGRAM_ABSTRACT',
      'EADDRNOTAVAIL'
    ])
    await supervisor.stop()
  })
})

testInCi(
  'of two servers behind one command the first is the worker; the second listens by itself, says so, and is ended',
  async t => {
    const [script, listens, output] = [temporaryPath('script'), temporaryPath('listens'), temporaryPath('second')]
    const first = program(`${REQUIRE}${WEB}
    import { writeFileSync } from 'node:fs'
    server.listen(0, '127.0.0.1', () => writeFileSync(${JSON.stringify(listens)}, ''))`)
    const second = program(`${REQUIRE}${WEB}
    import { writeFileSync } from 'node:fs'
    const warning = new Promise(resolve => process.on('warning', ({ code }) => resolve(code)))
    server.listen(0, '127.0.0.1', async () => {
      const facts = { pid: process.pid, code: await warning, ...server.address() }
      writeFileSync(${JSON.stringify(output)}, JSON.stringify(facts))
    })`)
    const node = process.execPath
    writeFileSync(
      script,
      `${node} ${first} &\nuntil [ -e ${listens} ]; do sleep 0.01; done\nNODE_NO_WARNINGS=1 ${node} ${second}\nwait`
    )
    await supervising(t, { program: ['/bin/sh', script], listeners: {}, stopTimeout: 100 }, async supervisor => {
      await supervisor.start()
      await until(() => isWritten(output), 'the second server', 60)
      const { pid, code, port } = JSON.parse(readFileSync(output, 'utf8'))
      t.is(code, 'ERR_PASSFD_PROGRAM_SECOND')
      const [[name, address] = []] = Object.entries(supervisor.addresses)
      t.is(Object.keys(supervisor.addresses).length, 1)
      t.not((address as { port: number }).port, port)
      t.is(await get(supervisor, name), `${supervisor.workers[0]!.pid}`)
      t.not(supervisor.workers[0]!.pid, pid)
      t.is(await (await fetch(`http://127.0.0.1:${port}`)).text(), `${pid}`)
      await supervisor.stop()
      await gone(pid)
    })
  }
)

testInCi('a supervisor of a program replaces another one, with what its programs listen on', async t => {
  const source = `${REQUIRE}${WEB}server.listen(${JSON.stringify(temporaryPath('web'))}, () => console.error)`
  const takeover = temporaryPath('seat')
  const options = { program: written(source), listeners: {}, takeover, workers: 2, stopTimeout: 5000 }
  await supervising(t, options, async old => {
    await old.start()
    const [name] = Object.keys(old.addresses)
    const before = await get(old, name)
    await supervising(t, options, async successor => {
      await successor.start()
      t.deepEqual(successor.addresses, { [name!]: { path: name } })
      await until(() => old.phase === 'stopped', 'the end of the old one')
      const after = await get(successor, name)
      t.not(after, before)
      t.true(successor.workers.some(({ pid }) => `${pid}` === after))
      await successor.stop()
    })
  })
})

testInCi(
  'a UDP socket that is being bound takes what is sent, a second bind() and close() as without passfd',
  async t => {
    const output = temporaryPath('udp')
    const source = `${REQUIRE}${WEB}
    import { writeFileSync } from 'node:fs'
    const { createSocket } = require('node:dgram')
    const results = []
    const [free, other] = [createSocket('udp4'), createSocket('udp4')]
    await new Promise(resolve => free.bind(0, '127.0.0.1', resolve))
    const { port } = free.address()
    await new Promise(resolve => free.close(resolve))
    const socket = createSocket('udp4')
    socket.on('error', error => results.push(error.code))
    other.on('error', error => results.push(error.code))
    socket.bind(port, '127.0.0.1')
    try { socket.bind(port) } catch (error) { results.push(error.code) }
    socket.send('early', port, '127.0.0.1')
    other.bind(port, '127.0.0.1')
    other.close(() => results.push('closed'))
    socket.once('message', text => {
      results.push(String(text))
      writeFileSync(${JSON.stringify(output)}, JSON.stringify(results))
      server.listen(0, '127.0.0.1')
    })`
    await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
      await supervisor.start()
      await until(() => isWritten(output), 'the message')
      t.deepEqual(JSON.parse(readFileSync(output, 'utf8')), ['ERR_SOCKET_ALREADY_BOUND', 'closed', 'early'])
      await supervisor.stop()
    })
  }
)

testInCi('a server that the program has unreferenced before listen() does not keep it running', async t => {
  for (const balance of BALANCES) {
    const source = `${REQUIRE}${WEB}
      server.unref()
      server.listen(0, '127.0.0.1')
      const stays = setInterval(() => {}, 1000)
      process.once('SIGUSR2', () => clearInterval(stays))`
    await supervising(t, { program: written(source), listeners: {}, balance }, async (supervisor, { exits }) => {
      await supervisor.start()
      process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
      await until(() => exits.length > 0, 'its end')
      t.is(exits[0], '0/1 0', JSON.stringify(balance))
    })
  }
})

test('a port that is tried on one address, closed at once, and then used on another one', async t => {
  const output = temporaryPath('output')
  const source = `${REQUIRE}${WEB}
    import { writeFileSync } from 'node:fs'
    const net = require('node:net')
    const free = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = free.address()
      free.close(() => {
        const probe = net.createServer().listen(port, '0.0.0.0', () => probe.close(() => {
          server.on('error', error => writeFileSync(${JSON.stringify(output)}, error.message))
          server.listen(port, '127.0.0.1', () => writeFileSync(${JSON.stringify(output)}, 'listens'))
        }))
      })
    })`
  await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
    await supervisor.start()
    await until(() => isWritten(output), 'the program')
    t.is(readFileSync(output, 'utf8'), 'listens')
    await supervisor.stop()
  })
})

/** How a connection ends that says nothing. */
function endOf(port: number): Promise<string> {
  return new Promise(resolve => {
    const client = connect(port, '127.0.0.1')
    client.on('error', (error: NodeJS.ErrnoException) => resolve(error.code!))
    client.on('close', () => resolve('closed'))
    client.resume()
  })
}

test('a server that one worker has closed is served by the other; when both have closed it, clients are refused until one listens again', async t => {
  const marks = temporaryPath('marks')
  const source = `${REQUIRE}${WEB}
    const mark = text => require('node:fs').appendFileSync(${JSON.stringify(marks)}, process.pid + text + '\\n')
    server.listen(0, '127.0.0.1')
    let port
    process.on('SIGUSR2', () => {
      ({ port } = server.address())
      server.close()
      mark(' closed')
    })
    process.on('SIGHUP', () => server.listen(port, '127.0.0.1', () => mark(' listens')))
    setInterval(() => {}, 1000)`
  for (const balance of BALANCES)
    await supervising(t, { program: written(source), listeners: {}, workers: 2, balance }, async supervisor => {
      writeFileSync(marks, '')
      const tell = async (pid: number, signal: NodeJS.Signals, done: string): Promise<void> => {
        process.kill(pid, signal)
        await until(() => readFileSync(marks, 'utf8').endsWith(`${pid} ${done}\n`), `${pid} ${done}`)
      }
      await supervisor.start()
      const [[name, { port }]] = Object.entries(supervisor.addresses) as unknown as [[string, { port: number }]]
      const [one, other] = supervisor.workers.map(({ pid }) => pid!) as [number, number]
      await tell(one, 'SIGUSR2', 'closed')
      for (let i = 0; i < 5; i++) t.is(await get(supervisor, name), `${other}`)
      await tell(other, 'SIGUSR2', 'closed')
      t.deepEqual(supervisor.addresses, {})
      // One that gets in while the listener is being closed is not served, either
      let end = ''
      while (end !== 'ECONNREFUSED') {
        end = await endOf(port)
        t.true(['ECONNREFUSED', 'ECONNRESET', 'closed'].includes(end), end)
      }
      await tell(one, 'SIGHUP', 'listens')
      const [again] = Object.keys(supervisor.addresses)
      t.deepEqual(Object.values(supervisor.addresses), [{ family: 'IPv4', address: '127.0.0.1', port }])
      t.is(await get(supervisor, again), `${one}`)
      await supervisor.stop()
    })
})

testInCi(
  'workers that look whether a port is free on every address, as Vite does, all get it; then each is ready',
  async t => {
    const troubles = temporaryPath('troubles')
    const source = `${REQUIRE}${WEB}
    import { appendFileSync } from 'node:fs'
    const { createServer } = require('node:net')
    const port = Number(process.argv[2])
    const trouble = ({ code, message }) => appendFileSync('${troubles}', code + ' ' + message + ' ')
    process.on('warning', trouble)
    const tried = host => new Promise(resolve => {
      const probe = createServer()
      probe.on('error', () => probe.close(resolve))
      probe.on('listening', () => probe.close(resolve))
      probe.listen(port, host)
    })
    for (let round = 0; ; round++) {
      for (const host of ['0.0.0.0', '::']) await tried(host)
      if (round === 10) break
      await new Promise(resolve => {
        const strict = createServer()
        strict.on('error', error => { trouble(error); resolve() })
        strict.on('listening', () => strict.close(resolve))
        strict.listen(port, '127.0.0.1')
      })
    }
    server.on('error', trouble)
    server.listen(port, '127.0.0.1')`
    const port = await freePort()
    await supervising(t, { program: [...written(source), `${port}`], listeners: {}, workers: 4 }, async supervisor => {
      await supervisor.start()
      t.false(existsSync(troubles), isWritten(troubles) ? readFileSync(troubles, 'utf8') : '')
      t.deepEqual(Object.keys(supervisor.addresses), [`127.0.0.1 ${port}`])
      const pids = new Set<string>()
      while (pids.size < 4) pids.add(await get(supervisor, `127.0.0.1 ${port}`))
      await supervisor.stop()
    })
  }
)

testInCi(
  'a program that removes the file of its socket before it listens, and at its end, takes no server off its path',
  async t => {
    const folder = mkdtempSync(join(dirname(temporaryPath('x')), 'sockets-'))
    const removes = {
      unlinkSync: 'try { unlinkSync(path) } catch {}',
      existsSync: 'if (existsSync(path)) fs.unlinkSync(path)',
      rmSync: 'rmSync(path, { force: true })',
      promises: 'await unlink(path).catch(() => {})',
      rm: "await new Promise(done => fs.rm(Buffer.from(path), { force: true }, done)); process.on('exit', () => unlinkSync(path))",
      relative:
        "process.chdir('/'); rmSync(path.slice(1), { force: true }); process.on('SIGTERM', () => { fs.unlinkSync(path); process.exit() })"
    }
    for (const [how, remove] of Object.entries(removes)) {
      const [path, other] = [join(folder, how), join(folder, `${how}.other`)]
      writeFileSync(path, '') // of an earlier run
      writeFileSync(other, '')
      const source = `${REQUIRE}${WEB}
      import fs, { existsSync, rmSync, unlinkSync } from 'node:fs'
      import { unlink } from 'node:fs/promises'
      const path = ${JSON.stringify(path)}
      rmSync('${other}', { force: true })
      ${remove}
      server.listen(path)`
      await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
        await supervisor.start()
        t.false(existsSync(other), how)
        let over = false
        const client = (async () => {
          for (let count = 0; ; count++) {
            await text(await answerAt(path))
            if (over) return count
          }
        })()
        for (let time = 0; time < 2; time++) await supervisor.reload()
        over = true
        t.true((await client) > 10, how)
        await supervisor.stop()
      })
      t.false(existsSync(path), how)
    }
  }
)

testInCi('where a program has closed its server it may remove a file of its own', async t => {
  const [path, output] = [temporaryPath('closed'), temporaryPath('output')]
  const source = `${REQUIRE}${WEB}
    import { existsSync, unlinkSync, writeFileSync } from 'node:fs'
    const closed = require('node:net').createServer().listen('${path}', () => closed.close(() => {
      writeFileSync('${path}', 'a file')
      unlinkSync('${path}')
      writeFileSync('${output}', String(existsSync('${path}')))
      server.listen(0, '127.0.0.1')
    }))`
  await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
    await supervisor.start()
    t.is(readFileSync(output, 'utf8'), 'false')
    await supervisor.stop()
  })
})

testInCi('that something else has removed the file of a socket is a warning', async t => {
  const path = temporaryPath('removed')
  const source = `${REQUIRE}${WEB}
    require('node:child_process').execFileSync('rm', ['-f', '${path}'])
    server.listen('${path}')`
  const listeners = process.listeners('warning')
  process.removeAllListeners('warning')
  const warnings: NodeJS.ErrnoException[] = []
  const hear = (warning: Error) => void warnings.push(warning)
  process.on('warning', hear)
  await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
    await supervisor.start()
    await supervisor.reload()
    await supervisor.stop()
  })
  process.off('warning', hear)
  for (const listener of listeners) process.on('warning', listener)
  t.deepEqual(
    warnings.map(({ code }) => code),
    ['ERR_PASSFD_LISTENER_FILE']
  )
})

testInCi('a program that listens when its worker was told to end gets an error that says so', async t => {
  const output = temporaryPath('output')
  const source = `${REQUIRE}${WEB}
    import { writeFileSync } from 'node:fs'
    process.on('SIGTERM', () => {
      const late = require('node:http').createServer()
      late.on('error', ({ code }) => {
        writeFileSync('${output}', code)
        process.exit()
      })
      late.listen(0, '127.0.0.1')
    })
    server.listen(0, '127.0.0.1')`
  await supervising(t, { program: written(source), listeners: {} }, async (supervisor, { exits }) => {
    await supervisor.start()
    await supervisor.reload()
    t.is(readFileSync(output, 'utf8'), 'ERR_PASSFD_PROGRAM_ENDING')
    t.deepEqual(exits, ['0/1 0'])
    t.is(Object.keys(supervisor.addresses).length, 1)
    await supervisor.stop()
  })
})

testInCi('a server that a worker has closed stays open for the worker that is to replace another one', async t => {
  // Slot 0 closes its server after slot 1 has died: its replacement listens there again
  const marks = temporaryPath('marks')
  const source = `${REQUIRE}${WEB}
    server.listen(0, '127.0.0.1')
    process.on('SIGUSR2', () => {
      if (process.env.PASSFD_SLOT === '1') process.exit(3)
      server.close()
      require('node:fs').writeFileSync(${JSON.stringify(marks)}, 'closed')
    })
    setInterval(() => {}, 1000)`
  const options = {
    program: written(source),
    listeners: {},
    workers: 2,
    restart: () => ({ restart: true as const, delay: 500 })
  }
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const [[name, { port }]] = Object.entries(supervisor.addresses) as unknown as [[string, { port: number }]]
    const [one, other] = supervisor.workers.map(({ pid }) => pid!) as [number, number]
    process.kill(other, 'SIGUSR2')
    await once(supervisor, 'exit')
    process.kill(one, 'SIGUSR2')
    await until(() => isWritten(marks), 'its close()')
    // It waits in the queue, until the replacement listens
    const answer = await get(supervisor, name)
    t.is(answer, `${supervisor.workers.find(({ slot }) => slot === 1)!.pid}`)
    t.deepEqual(Object.values(supervisor.addresses), [{ family: 'IPv4', address: '127.0.0.1', port }])
    await supervisor.stop()
  })
})

testInCi(
  'a second server on the address of another one fails as in Node, and the supervisor goes on giving to the first',
  async t => {
    const errors = temporaryPath('errors')
    const source = `${REQUIRE}${WEB}
    const path = ${JSON.stringify(temporaryPath('twice'))}
    server.listen(path)
    require('node:net').createServer().on('error', error => require('node:fs').writeFileSync(${JSON.stringify(errors)}, error.code)).listen(path)`
    for (const balance of BALANCES)
      await supervising(t, { program: written(source), listeners: {}, balance }, async supervisor => {
        await supervisor.start()
        const [name] = Object.keys(supervisor.addresses)
        t.is(await get(supervisor, name), `${supervisor.workers[0]!.pid}`)
        await until(() => isWritten(errors), 'the error')
        t.is(readFileSync(errors, 'utf8'), 'EADDRINUSE')
        await supervisor.stop()
      })
  }
)

testInCi('an error of passfd says in words what is wrong: more addresses than there may be', async t => {
  const errors = temporaryPath('errors')
  const source = `${REQUIRE}
    const net = require('node:net')
    const listen = number => net.createServer()
      .on('error', error => require('node:fs').writeFileSync(${JSON.stringify(errors)}, error.message))
      .listen(${JSON.stringify(temporaryPath('many'))} + number, () => listen(number + 1))
    listen(0)`
  await supervising(t, { program: written(source), listeners: {} }, async supervisor => {
    await supervisor.start()
    await until(() => isWritten(errors), 'the error')
    t.regex(
      readFileSync(errors, 'utf8'),
      /^listen ERR_PASSFD_TOO_MANY_LISTENERS: The program listens at more than 64 addresses/
    )
    await supervisor.stop()
  })
})

testInCi(
  'what a program has closed, or could not listen with, is forgotten: servers, their listeners, and no request',
  async t => {
    const output = temporaryPath('forgotten')
    const source = `import { once } from 'node:events'
    import { closeSync, openSync, writeFileSync } from 'node:fs'
    import { createServer, get } from 'node:http'
    import { setTimeout as later } from 'node:timers/promises'
    const stays = createServer((_request, response) => response.end('served')).listen(0, '127.0.0.1')
    await once(stays, 'listening')
    const errors = []
    // More than a supervisor keeps open, in one turn
    const closed = Array.from({ length: 100 }, () => {
      const server = createServer().on('error', ({ code }) => errors.push(code)).listen(0)
      server.close()
      return new WeakRef(server)
    })
    await later(5)
    // One that is closed while it has a connection
    const served = createServer((_request, response) => response.end('x')).listen(0)
    const agent = new (await import('node:http')).Agent({ keepAlive: true })
    const [response] = await once(get({ port: served.address().port, host: '127.0.0.1', agent }), 'response')
    response.resume()
    await once(response, 'end')
    served.close()
    agent.destroy()
    // No descriptor is free when the listener has come
    const full = createServer()
    const filled = []
    const fill = () => { try { for (;;) filled.push(openSync('/dev/null')) } catch {} }
    Object.defineProperty(full, '_unref', { get: () => { fill(); return false } })
    full.listen(0)
    const [{ code }] = await once(full, 'error')
    for (const fd of filled) closeSync(fd)
    let alive = 100
    for (let i = 0; i < 200 && alive > 5; i++) {
      await later(5)
      gc()
      alive = closed.filter(server => server.deref() !== undefined).length
    }
    writeFileSync(${JSON.stringify(output)}, JSON.stringify({ errors, code, alive }))`
    const command = ['sh', '-c', 'ulimit -n 600; exec "$@"', 'sh', process.execPath, '--expose-gc', program(source)]
    const options = { program: command as [string, ...string[]], listeners: {}, balance: 'shared' } as const
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      await until(() => isWritten(output), 'the program', 60)
      const { errors, code, alive } = resultsOf(output)
      t.deepEqual([errors, code], [[], 'EMFILE'])
      t.true((alive as number) <= 5, `${alive} of 100 servers are alive`)
      await until(() => Object.keys(supervisor.addresses).length === 1, 'only the server that stays has a listener')
      await until(() => supervisor.workers[0]!.requests === 1, 'the request of a server that was closed counts')
      t.is(await get(supervisor, Object.keys(supervisor.addresses)[0]), 'served')
    })
  }
)

testInCiIf(
  process.geteuid!() === 0 ? undefined : 'only root may change the user',
  'a program that has changed its user before listen() gets an error that names the remedy',
  async t => {
    const source = `process.setuid(65534)
      require('node:http').createServer().on('error', ({ message }) => { throw new Error(message) }).listen(0)`
    const path = temporaryPath('user').replace(/(-\d+)$/, '$1.cjs')
    const options = { program: written(source, path), listeners: {}, spawn: { stdio: 'lines' } } as const
    await supervising(t, options, async supervisor => {
      let text = ''
      supervisor.on('line', (_worker, _stream, line) => {
        text += `${line}\n`
      })
      await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_WORKER_NOT_READY' })
      t.regex(text, /has changed its user to 65534 before listen\(\).*passfd serve --uid/)
    })
  }
)
