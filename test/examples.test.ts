/** The examples do what their comments and the README say. They import the package, bundled. */
import { type SpawnOptions, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as nap } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { connect as connectChannel } from '../src/index.ts'
import { times } from './helpers/full.ts'
import { socketPath, temporaryPath } from './helpers/path.ts'
import { freePort } from './helpers/port.ts'
import { type Running, start } from './helpers/process.ts'
import { example as pathOf } from './helpers/programs.ts'
import { test, testInCi, testInCiIf } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const python = '/usr/bin/python3'
/** Between two visits, in ms: a normal run does not keep the processors busy. */
const PAUSE = times(4, 0)

test('the demo prints what the README shows, and leaves nothing behind', async t => {
  const demo = example('demo')
  const lines: string[] = []
  while (lines.length < 9) lines.push(await demo.line())
  await ends(t, demo)
  const [, shown] = /^```console\n\$ npm start\n([\s\S]*?)\n```/m.exec(readFileSync(join(root, 'README.md'), 'utf8'))!
  t.deepEqual(lines.map(general).sort(), shown!.split('\n').map(general).sort())

  const [receiver, sender] = [/^receiver: process (\d+) waits/, /^sender: process (\d+) has opened/].map(
    pattern => lines.map(line => pattern.exec(line)?.[1]).find(pid => pid !== undefined)!
  )
  t.true(lines.includes(`demo: it answers "You have reached process ${receiver}."`))
  t.true(lines.some(line => line.startsWith(`receiver: process ${sender} of user ${process.getuid!()} says`)))
  t.false(existsSync(/ (\S+)\/demo\.sock/.exec(lines.join('\n'))![1]!))
  t.false(existsSync(join(tmpdir(), `passfd-letter-${sender}.txt`)))
})

testInCi('receiver and sender, by hand', async t => {
  const path = socketPath()
  const receiver = example('receiver', path)
  t.is(await receiver.line(), `receiver: process ${receiver.child.pid} waits at ${path}`)
  const sender = example('sender', path)
  t.regex(await receiver.line(), new RegExp(`^receiver: process ${sender.child.pid} of user`))
  t.is(await receiver.line(), 'receiver: its file says "I was deleted before you opened me."')
  const [, url] = /mine: (http:.*)/.exec(await receiver.line())!
  await ends(t, sender)
  t.is(await (await fetch(url!)).text(), `You have reached process ${receiver.child.pid}.`)
  await ends(t, receiver)
  t.false(existsSync(path))
})

const hasMsgpack = spawnSync(python, ['-c', 'import msgpack']).status === 0

testInCiIf(hasMsgpack ? undefined : 'no python3-msgpack', 'the receiver and a peer in Python', async t => {
  const path = socketPath()
  const receiver = example('receiver', path)
  await receiver.line()
  const peer = start(python, [join(root, 'examples/python/capitals.py'), 'connect', path])
  t.regex(await receiver.line(), new RegExp(`^receiver: process ${peer.child.pid} of user .* says "a letter"`))
  t.is(await receiver.line(), 'receiver: its file says "Written by Python."')
  t.regex(await peer.line(), /^python: passfd answers: WRITTEN BY PYTHON\.$/)
  await ends(t, peer)
  await ends(t, receiver)
})

testInCi('notify hears what a service says, and keeps its file', async t => {
  const service = join(root, 'test/fixtures/notify.py')
  const notify = example('notify', python, service)
  const first = await notify.line()
  const [, pid] = /^notify: process (\d+) is ready$/.exec(first) ?? []
  t.true(Number(pid) > 0 && Number(pid) !== notify.child.pid, first)
  t.is(await notify.line(), 'notify: its status is "from Python"')
  t.is(await notify.line(), 'notify: keeps "host": file')
  t.is(await notify.line(), `notify: ${python} ended with 0, 1 files are kept`)
  await ends(t, notify)
})

testInCi('the echo server: children serve what the parent accepts, and are reaped', async t => {
  const echo = example('echo-server')
  const { pid } = echo.child
  t.is(await echo.line(), `parent: process ${pid} accepts, and 3 children serve`)
  const served: string[] = []
  for (let i = 0; i < 3; i++)
    served.push(/^client: This is process (\d+). Does it echo\?$/.exec(await echo.line())![1]!)
  t.is(new Set(served).size, 3)
  const [, victim] = /^parent: child (\d+) was reaped: SIGKILL$/.exec(await echo.line())!
  t.true(served.includes(victim!))
  t.is(await echo.line(), 'parent: another one serves in slot 0')
  t.regex(await echo.line(), /^client: This is process \d+. Does it echo\?$/)
  for (let i = 0; i < 3; i++) t.regex(await echo.line(), /^parent: child \d+ was reaped: 0$/)
  await ends(t, echo)
})

testInCi('the echo server serves a port until it is told to stop', async t => {
  const port = await freePort()
  const echo = example('echo-server', String(port), '1')
  const answer = await retry(() => sayTo(port, 'hello'))
  t.regex(answer, /^This is process \d+.\nhello$/)
  echo.child.kill('SIGTERM')
  t.deepEqual(await echo.exit, { code: 0, signal: null, stderr: '' })
})

testInCi('the http server brings new workers on HUP, and ends on TERM', async t => {
  const port = await freePort()
  const server = example('prefork-http', String(port))
  t.is(await server.line(), `supervisor: process ${server.child.pid}`)
  const ready = [await server.line(), await server.line()]
  t.deepEqual(ready.map(general).sort(), ['slot …: process … serves', 'slot …: process … serves'])
  const greeting = await (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text()
  t.true(ready.some(line => line.includes(/^Process (\d+) in slot/.exec(greeting)![1]!)))
  server.child.kill('SIGHUP')
  const lines = [await server.line(), await server.line(), await server.line(), await server.line()]
  t.is(lines.filter(line => / serves$/.test(line)).length, 2)
  t.is(lines.filter(line => / ended: 0$/.test(line)).length, 2)
  server.child.kill('SIGTERM')
  await ends(t, server)
})

testInCi('a worker by hand is a plain server', async t => {
  const port = await freePort()
  const worker = example('prefork-http-worker', String(port))
  const greeting = await retry(async () => (await fetch(`http://127.0.0.1:${port}/`)).text())
  t.is(greeting, `Process ${worker.child.pid} in slot 0 greets you.\n`)
  worker.child.kill('SIGTERM')
  await ends(t, worker)
})

testInCi('what one worker is told, all of them know', async t => {
  const broadcast = example('broadcast')
  const lines = [await broadcast.line(), await broadcast.line(), await broadcast.line()]
  const answers = lines.map(line => JSON.parse(line))
  t.deepEqual(answers.map(({ slot }) => slot).sort(), [0, 1, 2])
  t.true(answers.every(({ motto }) => motto === 'nothing is lost'))
  await ends(t, broadcast)
})

testInCi('the next version takes the port over while clients come', async t => {
  const path = socketPath()
  const first = example('hot-restart', path)
  const [, port] = /serves port (\d+)$/.exec(await first.line())!
  const visit = async () => (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text()
  const answers = new Set([await visit()])
  let visiting = true
  const visitor = (async () => {
    // Rejects if one is refused or reset
    for (; visiting; await nap(PAUSE)) answers.add(await visit())
  })()
  const second = example('hot-restart', path)
  t.is(await second.line(), `process ${second.child.pid} serves port ${port}`)
  await ends(t, first)
  answers.add(await visit())
  visiting = false
  await visitor
  t.deepEqual([...answers].sort(), [first, second].map(({ child }) => `process ${child.pid}`).sort())
  second.child.kill('SIGTERM')
  await ends(t, second)
})

testInCi('an http server that is started again replaces itself, and its counter goes on', async t => {
  const path = socketPath()
  const first = example('takeover', path)
  const [, port] = /serves port (\d+)$/.exec(await first.line())!
  const visit = async (): Promise<{ visit: number; pid: number }> => {
    const response = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })
    const [, number, pid] = /^visit (\d+), process (\d+)$/.exec(await response.text())!
    return { visit: Number(number), pid: Number(pid) }
  }
  const answers = [await visit(), await visit()]
  for (const [index, answer] of answers.entries()) t.deepEqual(answer, { visit: index + 1, pid: first.child.pid! })
  let visiting = true
  const visitor = (async () => {
    // Rejects if one is refused or reset
    for (; visiting; await nap(PAUSE)) answers.push(await visit())
  })()
  const second = example('takeover', path)
  t.is(await second.line(), `process ${second.child.pid} serves port ${port}`)
  t.is(await first.line(), `process ${first.child.pid} ends, because process ${second.child.pid} serves`)
  await ends(t, first)
  visiting = false
  await visitor
  answers.push(await visit())
  const numbers = answers.map(answer => answer.visit)
  t.deepEqual(
    numbers,
    numbers.toSorted((a, b) => a - b),
    'it never counts backwards'
  )
  t.is(answers.at(-1)!.pid, second.child.pid!)
  second.child.kill('SIGTERM')
  await ends(t, second)
})

const notRoot = process.getuid!() === 0 ? undefined : 'needs root'

testInCiIf(
  notRoot,
  'another user as a client: let in, refused by the server, refuses the server, kept out by the mode',
  async t => {
    const [guest, stranger] = [65534, 65533]
    const folder = mkdtempSync(join(tmpdir(), 'passfd-other-user-'))
    chmodSync(folder, 0o755)
    const path = join(folder, 'guests.sock')
    const server = example('other-user', 'serve', path, `${guest}`)
    t.is(await server.line(), `server: user 0 waits for user ${guest}`)
    const visit = async (uid: number, host: number) => {
      const visitor = exampleOf({ uid, gid: uid }, 'other-user', 'visit', path, `${host}`)
      const line = await visitor.line()
      await ends(t, visitor)
      return line.replace(/rocess \d+/, 'rocess N')
    }
    t.is(await visit(guest, 0), 'guest: the server answers "welcome"')
    t.regex(await server.line(), new RegExp(`^server: process \\d+ of user ${guest} says "hello"$`))
    t.is(await visit(stranger, 0), 'guest: the server refused: ERR_PASSFD_UNAUTHORIZED')
    t.is(await server.line(), `server: refused user ${stranger}: ERR_PASSFD_UNAUTHORIZED`)
    t.is(
      await visit(guest, stranger),
      'guest: I refused the server: Process N of user 0 is not let in: authorize() refused.'
    )
    chmodSync(path, 0o600)
    t.is(await visit(guest, 0), `guest: EACCES: permission denied, connect '${path}'`)
    server.child.kill('SIGTERM')
    await ends(t, server)
    rmdirSync(folder)
  }
)

interface SpanLine {
  name: string
  kind: number
  trace: string
  id: string
  parent?: string
  status: { code: number; message?: string }
  attributes: Record<string, unknown>
  events: { name: string; attributes: Record<string, unknown> }[]
  resource: Record<string, unknown>
}

/** As @opentelemetry/api numbers them. */
const KIND = { internal: 0, server: 1, client: 2 }
const ERROR = 2

async function spansOf(running: Running, count: number): Promise<SpanLine[]> {
  const spans: SpanLine[] = []
  while (spans.length < count) spans.push(JSON.parse(await running.line()))
  return spans
}

testInCi('opentelemetry: the spans of two processes are one trace; errors and cancelling are in it', async t => {
  const shop = example('opentelemetry')
  const spans = await spansOf(shop, 11)
  await ends(t, shop)
  t.is(new Set(spans.map(({ trace }) => trace)).size, 3)
  for (const item of ['lamp', 'unicorn', 'piano']) {
    const root = spans.find(({ name }) => name === `buy ${item}`)!
    const of = spans.filter(({ trace }) => trace === root.trace)
    const client = of.find(({ kind }) => kind === KIND.client)!
    const server = of.find(({ kind }) => kind === KIND.server)!
    t.is(root.parent, undefined)
    t.is(client.parent, root.id)
    t.is(server.parent, client.id, 'the context has crossed the channel')
    t.deepEqual([client.name, server.name], ['reserve', 'reserve'])
    t.deepEqual(
      [client, server].map(({ resource }) => resource['service.name']),
      ['shop', 'stock']
    )
    const inside = of.find(({ name }) => name === 'look up')
    t.is(inside?.parent, item === 'piano' ? undefined : server.id, 'the handler runs in the context')
    t.is(of.length, item === 'piano' ? 3 : 4)
    const failures = of.filter(({ status }) => status.code === ERROR).map(({ attributes }) => attributes['error.type'])
    if (item === 'lamp') t.deepEqual(failures, [])
    else if (item === 'unicorn') {
      t.deepEqual(failures.sort(), ['ERR_PASSFD_REMOTE', 'ERR_PASSFD_REMOTE', 'E_NO_SUCH_ITEM'])
      t.like(server.events, [{ name: 'exception' }])
    } else {
      t.deepEqual(failures, ['ABORT_ERR', 'ABORT_ERR'])
      t.deepEqual(server.events, [{ name: 'cancelled', attributes: { reason: 'ERR_PASSFD_CANCELLED' } }])
    }
  }
})

testInCi(
  'opentelemetry: a worker’s http requests are in their client’s trace, with what it asks the supervisor',
  async t => {
    const port = await freePort()
    const server = example('opentelemetry-prefork', String(port))
    for (let i = 0; i < 2; i++) t.regex(await server.line(), /^slot [01]: process \d+ serves$/)
    const [trace, parent] = ['0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331']
    const headers = { connection: 'close', traceparent: `00-${trace}-${parent}-01` }
    const slots: number[] = []
    for (const path of ['/a', '/b', '/fails']) {
      const answer = await (await fetch(`http://127.0.0.1:${port}${path}`, { headers })).text()
      slots.push(Number(/^order \d, slot ([01])$/m.exec(answer)![1]))
    }
    t.is(new Set(slots).size, 2)
    server.child.kill('SIGTERM')
    const spans = await spansOf(server, 9)
    await ends(t, server)
    t.true(spans.every(span => span.trace === trace))
    const roots = spans.filter(({ name }) => name === 'GET')
    t.deepEqual(
      roots.map(({ attributes }) => [attributes['url.path'], attributes['passfd.slot']]).sort(),
      ['/a', '/b', '/fails'].map((path, index) => [path, slots[index]])
    )
    for (const root of roots) {
      const { 'url.path': path, 'passfd.slot': slot, 'http.response.status_code': status } = root.attributes
      t.is(root.parent, parent)
      t.is(root.kind, KIND.server)
      t.is(root.resource['service.instance.id'], `worker ${slot}`)
      t.deepEqual([status, root.status.code], path === '/fails' ? [500, ERROR] : [200, 0])
      const client = spans.find(span => span.parent === root.id)!
      const asked = spans.find(span => span.parent === client.id)!
      t.deepEqual([client.kind, client.name, client.resource], [KIND.client, 'count', root.resource])
      t.deepEqual([asked.kind, asked.resource['service.instance.id']], [KIND.server, 'supervisor'])
    }
  }
)

testInCi('opentelemetry: no value of a peer disturbs a traced process', async t => {
  const built = new URL('../build/', import.meta.url).href
  const path = socketPath()
  const source = `import { listen } from '${built}dist/index.js'
    import { startTracing } from '${built}programs/opentelemetry-lines.js'
    startTracing('shop', '1', value => value.operation.toUpperCase())
    const server = await listen('${path}')
    console.log('listens')
    server.on('channel', channel => channel.once('close', () => server.close()))
    server.serve(({ value }) => JSON.stringify(value) ?? 'nothing')`
  const traced = start(process.execPath, ['--input-type=module', '--eval', source])
  t.is(await traced.line(), 'listens')
  const channel = await connectChannel<unknown, unknown>(path)
  const carriers = [null, 5, 'x', [1], { traceparent: {}, tracestate: [null], baggage: 5 }, { baggage: { split: 1 } }]
  const values = [null, undefined, 5, 'x', [], { operation: 7 }, new Map()]
  for (const value of values) t.is(await channel.request(value), JSON.stringify(value) ?? 'nothing')
  for (const $trace of carriers) t.is(await channel.request({ $trace }), '{}')
  for (let i = 0; i < values.length + carriers.length; i++) t.is(JSON.parse(await traced.line()).kind, KIND.server)
  await channel.close()
  await ends(t, traced)
})

testInCi('opentelemetry: under passfd serve each worker has its spans, by --import', async t => {
  const folder = temporaryPath('traced')
  const port = await freePort()
  mkdirSync(folder)
  const lines = new URL('../build/programs/opentelemetry-lines.js', import.meta.url).href
  writeFileSync(
    join(folder, 'tracing.mjs'),
    `import { startTracing } from '${lines}'
    startTracing('shop', \`worker \${process.env.PASSFD_SLOT}\`)`
  )
  writeFileSync(
    join(folder, 'server.mjs'),
    `import { createServer } from 'node:http'
    import { createRequire } from 'node:module'
    const { trace } = createRequire('${join(root, 'package.json')}')('@opentelemetry/api')
    createServer((request, response) =>
      trace.getTracer('http').startActiveSpan('GET', span => response.end(process.env.PASSFD_SLOT, () => span.end()))
    ).listen(${port}, '127.0.0.1')`
  )
  const serve = start(
    process.execPath,
    [
      join(root, 'dist/cli/passfd.mjs'),
      ...['serve', '-w', '2', '--balance', 'round-robin', '--import', './tracing.mjs', 'server.mjs']
    ],
    { cwd: folder, env: { PATH: process.env.PATH, PASSFD_RUNTIME_DIR: folder } }
  )
  const [said] = await once(serve.child.stderr!, 'data')
  t.regex(String(said), / serves at .*: 2 workers/)
  const visit = async () => (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text()
  t.deepEqual([await visit(), await visit()].sort(), ['0', '1'])
  const spans = await spansOf(serve, 2)
  t.deepEqual(spans.map(({ resource }) => resource['service.instance.id']).sort(), ['worker 0', 'worker 1'])
  serve.child.kill('SIGTERM')
  t.is((await serve.exit).code, 0)
})

testInCi('pino: the log is rotated under workers that write it, and no line is lost, torn or out of order', async t => {
  const folder = temporaryPath('logs')
  const pino = example('pino', folder)
  for (let number = 1; number <= 4; number++)
    t.regex(await pino.line(), new RegExp(`^app\\.log\\.${number} is complete after \\d+ and \\d+ lines$`))
  const [, ...counts] = /^all: (\d+) and (\d+) lines$/.exec(await pino.line())!
  await ends(t, pino)
  const last = new Map<number, number>()
  for (const name of ['app.log.1', 'app.log.2', 'app.log.3', 'app.log.4', 'app.log']) {
    const content = readFileSync(join(folder, name), 'utf8')
    if (content === '') continue // the one in which nothing was written before the next
    t.true(content.endsWith('}\n'), name)
    for (const line of content.slice(0, -1).split('\n')) {
      const { pid, count, msg } = JSON.parse(line)
      if (count !== (last.get(pid) ?? 0) + 1 || msg !== 'a line of the log')
        t.fail(`${name}: ${line} after ${last.get(pid)}`)
      last.set(pid, count)
    }
  }
  t.deepEqual([...last.values()].sort(), counts.map(Number).sort())
})

function example(name: string, ...args: string[]): Running {
  return exampleOf({}, name, ...args)
}

function exampleOf(options: SpawnOptions, name: string, ...args: string[]): Running {
  return start(process.execPath, [pathOf(name), ...args], options)
}

async function ends(t: ExecutionContext, running: Running): Promise<void> {
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
}

/** Without what differs from run to run. */
function general(line: string): string {
  return line.replace(/\S+\/demo\.sock|\d+/g, '…')
}

/** It does not say when it listens. */
async function retry<T>(attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      const { code } = ((error as Error).cause ?? error) as NodeJS.ErrnoException
      if (code !== 'ECONNREFUSED') throw error
    }
  }
}

async function sayTo(port: number, words: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.end(words)
  return text(socket)
}
