import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  watch as watchFile,
  writeFileSync
} from 'node:fs'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { EXIT } from '../../../src/cli/exit.ts'
import type { AdminStatus } from '../../../src/prefork/index.ts'
import { type Captured, captured, runPassfd } from '../../helpers/cli.ts'
import { freePort } from '../../helpers/port.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

// libuv's inotify descriptor, which stays open, is opened before anything is counted
watchFile('/').close()

const SERVER = `
  const http = require('node:http')
  const { A, B, C } = process.env
  const answer = require('./answer.json')
  http.createServer(({ url }, response) => {
    if (url === '/log') console.log('a line of ' + process.env.PASSFD_SLOT)
    if (url === '/log') process.stderr.write('{"trouble":true}\\n')
    response.end(answer + [process.argv[2], A, B, C].join())
  })
    .listen(Number(process.env.PORT ?? 0), '127.0.0.1')
`

interface Place {
  folder: string
  env: Record<string, string>
}

/** A folder with the program, and a runtime folder. */
async function inPlace(work: (place: Place) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-serve-'))
  const env = { PATH: process.env.PATH!, PASSFD_RUNTIME_DIR: join(folder, 'run') }
  for (const version of ['1', '2']) {
    mkdirSync(join(folder, version))
    writeFileSync(join(folder, version, 'server.js'), SERVER)
    writeFileSync(join(folder, version, 'answer.json'), version)
  }
  try {
    await work({ folder, env })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Starts `passfd serve`, and waits until it serves. `ended`: its exit code. */
async function serving(args: string[], { env }: Place): Promise<{ streams: Captured; ended: Promise<number> }> {
  const streams = captured(env)
  const ended = runPassfd(['serve', ...args], streams).then(({ code }) => code)
  let over = false
  void ended.then(() => {
    over = true
  })
  await until(() => over || / serves /.test(streams.err), 'passfd serves', 60)
  if (over) throw new Error(streams.err)
  return { streams, ended }
}

async function statusOf(name: string, { env }: Place): Promise<AdminStatus & { name: string }> {
  const { out, err } = await runPassfd(['status', name, '--json'], captured(env))
  if (err !== '') throw new Error(err)
  return JSON.parse(out)
}

function portOf({ listeners }: AdminStatus): number {
  return (Object.values(listeners)[0] as { port: number }).port
}

async function ask(port: number, path = '/'): Promise<string> {
  const request = get({ port, path, host: '127.0.0.1', agent: false })
  const [response] = await once(request, 'response')
  return text(response)
}

test('a program is served, shown, reloaded through a link, scaled and stopped', async t => {
  await inPlace(async place => {
    const { folder, env } = place
    const link = join(folder, 'current')
    symlinkSync('1', link)
    writeFileSync(join(folder, '.env'), 'A=file\nB=file\nC=file\n')
    writeFileSync(join(folder, 'c.json'), '{"workers":3,"env":{"C":"config"},"envFile":".env","stopTimeout":"20s"}')
    const args = ['-w', '1', '--config', join(folder, 'c.json'), '--cwd', link, '--name', 'app', 'server.js', '--watch']
    const metricsPort = await freePort()
    args.unshift('--metrics', `${metricsPort}`)
    const { streams, ended } = await serving(args, { folder, env: { ...env, B: 'shell' } })
    const run = async (...words: string[]) => {
      const { code, out, err } = await runPassfd(words, captured(env))
      t.deepEqual({ code, err }, { code: 0, err: '' }, words.join(' '))
      return out
    }
    const status = await statusOf('app', place)
    const port = portOf(status)
    t.deepEqual([status.name, status.phase, status.size, status.workers.length], ['app', 'running', 1, 1])
    t.regex(
      streams.err,
      new RegExp(`^passfd: app serves at 127\\.0\\.0\\.1:${port}: 1 worker, process ${process.pid}, `)
    )
    t.is(await ask(port), '1--watch,file,shell,config')
    t.regex(await run('status', 'app'), /^app is running: process .*, 1 worker\n {2}listens at 127\.0\.0\.1:\d+/)

    rmSync(link)
    symlinkSync('2', link)
    t.regex(await run('reload', 'app'), /^Reloaded app: 1 worker in .*\.\n$/)
    t.is(await ask(port), '2--watch,file,shell,config')
    const [worker] = (await statusOf('app', place)).workers
    t.not(worker!.pid, status.workers[0]!.pid)

    t.is(await run('scale', '2', 'app'), 'app has 2 workers (before: 1).\n')
    t.deepEqual(JSON.parse(await run('scale', '1', 'app', '--json')), { workers: 1, before: 2 })
    t.regex(await ask(metricsPort, '/metrics'), /^passfd_workers\{state="ready"\} 1$/m)

    // Its reader ends at the first line, before the server has answered
    await ask(port, '/log')
    await until(() => streams.out.includes('a line'), 'a line')
    const cut = captured(env)
    const stdout = { write: () => process.stdout.emit('error', new Error('EPIPE')) }
    const early = await runPassfd(['logs', 'app'], Object.assign(cut, { stdout }))
    t.deepEqual(early, { code: 0, out: '', err: '' })

    const [seen, records] = [captured(env, { terminal: true }), captured(env)]
    const followers = [runPassfd(['logs', 'app'], seen), runPassfd(['logs', 'app', '--json'], records)]
    // Each sees what is written from its own beginning on
    while (!seen.out.includes('trouble') || !records.out.includes('trouble')) await ask(port, '/log')
    t.regex(seen.out, new RegExp(`0 ${worker!.pid}\\S* \\| a line of 0\n`))
    const found = records.out
      .trim()
      .split('\n')
      .map(line => JSON.parse(line))
    t.like(
      found.find(({ text }) => text !== undefined),
      { slot: 0, pid: worker!.pid, stream: 'stdout', text: 'a line of 0' }
    )
    t.like(
      found.find(({ json }) => json !== undefined),
      { stream: 'stderr', json: { trouble: true } }
    )
    t.regex(streams.out, /^a line of 0\n/)
    t.regex(streams.err, /\n\{"trouble":true\}\n/)

    // A worker that has ended is in what is shown first
    const ended0 = (await statusOf('app', place)).workers[0]!
    await run('reload', 'app')
    const last = (await run('logs', 'app', '--no-follow', '--json', '--lines', '2')).trim().split('\n')
    t.deepEqual(
      last
        .map(line => JSON.parse(line))
        .map(({ pid, text, json }) => [pid, text ?? json])
        .sort(),
      [
        [ended0.pid, 'a line of 0'],
        [ended0.pid, { trouble: true }]
      ].sort()
    )
    t.is(await run('logs', 'app', '--no-follow', '-n', '0'), '')
    const wrong = await runPassfd(['logs', 'app', '--lines', '1001'], captured(env))
    t.deepEqual([wrong.code, wrong.err.includes('an integer from 0 to 1,000')], [EXIT.usage, true])

    t.deepEqual(JSON.parse(await run('stop', 'app', '--json')).pid, process.pid)
    t.is(await ended, 0)
    for (const { code, err } of await Promise.all(followers))
      t.deepEqual({ code, err }, { code: 0, err: 'passfd: app has ended.\n' })
    t.regex(streams.err, /Worker 0 \(pid \d+\) has ended\.\npassfd: app has stopped\.\n$/)

    const gone = await runPassfd(['status', 'app'], captured(env))
    t.is(gone.code, EXIT.unavailable)
    t.regex(
      gone.err,
      /^passfd: The server "app" is not running: there is no socket .*\. Start one with "passfd serve"\.\n$/
    )
    t.deepEqual(readdirSync(env.PASSFD_RUNTIME_DIR!), [], 'its socket files are removed')
    // That of one that was killed
    writeFileSync(
      join(folder, 'dies.cjs'),
      'require("net").createServer().listen("dead.sock", () => process.kill(process.pid, "SIGKILL"))'
    )
    spawnSync(process.execPath, ['dies.cjs'], { cwd: folder })
    renameSync(join(folder, 'dead.sock'), join(env.PASSFD_RUNTIME_DIR!, 'app.sock'))
    const killed = await runPassfd(['status', 'app'], captured(env))
    t.is(killed.code, EXIT.unavailable)
    t.regex(
      killed.err,
      /^passfd: The server "app" has ended: nobody answers at .*app\.sock\. Start one with "passfd serve"\.\n$/
    )
  })
})

test('reload and scale while the first workers start: try again later', async t => {
  await inPlace(async ({ folder, env }) => {
    const program = join(folder, 'slow.js')
    writeFileSync(program, 'setInterval(() => {}, 1000)')
    const streams = captured(env)
    const ended = runPassfd(['serve', '-w', '1', '--name', 'slow', program], streams)
    const ask = (...words: string[]) => runPassfd(words, captured(env))
    await until(() => existsSync(join(folder, 'run', 'slow.sock')), 'it answers', 60)
    for (const words of [
      ['reload', 'slow'],
      ['scale', '2', 'slow']
    ]) {
      const { code, err } = await ask(...words)
      t.is(code, EXIT.temporary)
      t.is(
        err,
        "passfd: slow can't do this yet, because its first workers are still starting. Repeat the command when they are ready.\n"
      )
    }
    t.is((await ask('stop', 'slow')).code, 0)
    t.is((await ended).code, 0)
  })
})

test('a name that is taken is an error; others are named where nobody answers', async t => {
  await inPlace(async place => {
    const { folder, env } = place
    const admin = join(folder, 'admin')
    const metrics = ['--metrics', join(folder, 'metrics')]
    const { ended, streams } = await serving(
      ['-w', '1', '--name', 'app', '--admin', admin, '--log', 'json', ...metrics, join(folder, '1', 'server.js')],
      place
    )
    t.is(JSON.parse(streams.err.split('\n')[0]!).event, 'started')
    const again = ['serve', '-w', '1', '--name', 'app', join(folder, '1', 'server.js')]
    for (const more of [[], metrics]) {
      const { code, err } = await runPassfd(again.toSpliced(1, 0, ...more), captured(env))
      t.is(code, EXIT.temporary)
      t.is(
        err,
        `passfd: Process ${process.pid} serves as "app" already. Replace it with --takeover, stop it with "passfd stop app", or choose another --name.\n`
      )
    }
    const other = await runPassfd(['status', 'other'], captured(env))
    t.regex(other.err, /These are running: app\.\n$/)
    // By its link in the runtime folder, and by its own path
    t.is((await statusOf('app', place)).pid, process.pid)
    t.is((await statusOf(admin, place)).pid, process.pid)
    rmSync(join(env.PASSFD_RUNTIME_DIR!, 'app.sock')) // as what cleans temporary folders may do
    t.is((await runPassfd(['stop', '--no-wait', admin], captured(env))).code, 0)
    t.is(await ended, 0)
    t.deepEqual(JSON.parse(streams.err.trim().split('\n').at(-1)!).event, 'stopped')
  })
})

testInCi('a name that can not lead to --admin is no end of the server', async t => {
  await inPlace(async place => {
    const { folder, env } = place
    const admin = join(folder, 'admin')
    mkdirSync(join(env.PASSFD_RUNTIME_DIR!, 'app.sock'), { recursive: true, mode: 0o700 })
    const args = ['-w', '1', '--name', 'app', '--admin', admin, join(folder, '1', 'server.js')]
    const { ended, streams } = await serving(args, place)
    t.is((await statusOf(admin, place)).pid, process.pid)
    t.is((await runPassfd(['stop', '--no-wait', admin], captured(env))).code, 0)
    t.is(await ended, 0)
    t.regex(streams.err, /The name app does not lead to .*admin, .*EISDIR.* Give that path to the commands\.\n/)
  })
})

test('what is wrong is said before anything is started', async t => {
  await inPlace(async ({ folder, env }) => {
    const program = join(folder, '1', 'server.js')
    const configured = (options: object): string => {
      const file = join(mkdtempSync(join(folder, 'config-')), 'config.json')
      writeFileSync(file, JSON.stringify(options))
      return file
    }
    const cases: [args: string[], code: number, message: RegExp][] = [
      [[], EXIT.usage, /^passfd: No program is named\. Name it: passfd serve server\.js\.\n$/],
      [['none.js'], EXIT.noInput, /^passfd: There is no program .*none\.js\. /],
      [['no-such-command'], EXIT.noInput, /^passfd: There is no command "no-such-command"\. Check its name, /],
      [['--log', 'json', 'no-such-command'], EXIT.noInput, /^\{"error":\{"message":"There is no command /],
      [['--cwd', join(folder, 'none'), program], EXIT.noInput, /is no folder\. Check --cwd/],
      [['--env-file', join(folder, 'none'), program], EXIT.noInput, /can't be read \(ENOENT\)\. Check --env-file/],
      [['--name', 'a b', program], EXIT.usage, /argument 'a b' is invalid\. It must be a name of A-Z, /],
      [['--sticky', 'address', '--balance', 'shared', program], EXIT.usage, /--balance and --sticky both /],
      [['--listen', 'a:b=3000', program], EXIT.usage, /It must be listeners whose names have /],
      [['--listen', 'a=3000', '--listen', 'a=3001', program], EXIT.usage, /There is a "a" already\. /],
      [['--kill-timeout', '0', program], EXIT.usage, /It must be a time from 1ms on\. /],
      [['--config', configured({ listen: { a: { prot: 1 } } }), program], EXIT.config, /listen\.a has the unknown /],
      [
        ['--config', configured({ balance: {} }), program],
        EXIT.config,
        /^passfd: In the configuration balance must be/
      ],
      [['--config', configured({ name: 'a b' }), program], EXIT.config, /^passfd: name in config\.json must be a name /]
    ]
    for (const [args, code, message] of cases) {
      const result = await runPassfd(['serve', ...args], captured(env))
      t.is(result.code, code, args.join(' '))
      t.regex(result.err, message)
    }
  })
})

test('a program that can’t start ends the server', async t => {
  await inPlace(async ({ folder, env }) => {
    const program = join(folder, 'fails.js')
    writeFileSync(program, 'process.exit(3)')
    const { code, err } = await runPassfd(['serve', '-w', '1', '--name', 'app', program], captured(env))
    t.is(code, EXIT.failed)
    t.regex(err, /^passfd: Worker 0 \(pid \d+\) has ended: .*3\.\npassfd: The worker in slot 0 .* did not get ready: /)
  })
})

testInCi('with --takeover a second server replaces the first, and no request fails', async t => {
  await inPlace(async place => {
    const { folder, env } = place
    const passfd = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
    const begin = async (version: string, ...args: string[]) => {
      const program = join(folder, version, 'server.js')
      const child = spawn(passfd, ['serve', '-w', '1', '--name', 'app', ...args, program], {
        env,
        stdio: ['ignore', 'ignore', 'pipe']
      })
      let err = ''
      child.stderr.on('data', chunk => {
        err += chunk
      })
      const ended = once(child, 'close')
      await until(() => child.exitCode !== null || / serves at /.test(err), 'passfd serves', 60)
      return { child, ended, said: () => err }
    }
    const port = await freePort()
    env.PORT = String(port)
    const first = await begin('1')
    // It follows the successor's workers, too
    const seen = captured(env)
    const follower = runPassfd(['logs', 'app', '--json'], seen)
    while (seen.out === '') await ask(port, '/log')
    const answers = new Set<string>()
    let done = false
    const clients = Array.from({ length: 4 }, async () => {
      while (!done) answers.add((await ask(port)).slice(0, 1))
    })
    const second = await begin('2', '--takeover')
    await first.ended
    done = true
    await Promise.all(clients)
    const written = seen.out.length
    while (seen.out.length === written) await ask(port, '/log')
    t.is(first.child.exitCode, 0)
    t.regex(first.said(), /Process \d+ serves app now; /)
    t.deepEqual([...answers].sort(), ['1', '2'])
    t.is((await statusOf('app', place)).pid, second.child.pid!)
    t.is((await runPassfd(['stop', 'app'], captured(env))).code, 0)
    await second.ended
    t.is(second.child.exitCode, 0)
    t.deepEqual(await follower, { code: 0, out: seen.out, err: 'passfd: app has ended.\n' })
    t.is(new Set(seen.out.match(/"pid":\d+/g)).size, 2)
  })
})

testInCi(
  'with --takeover USR2 starts the same command line in its place, HUP reloads it, and no request fails',
  async t => {
    await inPlace(async place => {
      const { folder, env } = place
      const passfd = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
      const port = await freePort()
      env.PORT = String(port)
      const args = ['serve', '-w', '2', '--name', 'app', '--takeover', join(folder, '1', 'server.js'), 'an argument']
      const child = spawn(passfd, args, { env, stdio: ['ignore', 'ignore', 'pipe'] })
      let err = ''
      child.stderr.on('data', chunk => {
        err += chunk
      })
      const closed = once(child, 'close')
      await until(() => / serves at /.test(err), 'passfd serves', 60)
      let done = false
      let answered = 0
      const clients = Array.from({ length: 4 }, async () => {
        for (; !done; answered++) await ask(port)
      })
      const ended = once(child, 'exit')
      child.kill('SIGUSR2')
      t.deepEqual(await ended, [0, null])
      t.regex(err, /Process \d+ serves app now; /)
      const { pid, workers } = await statusOf('app', place)
      t.not(pid, child.pid!)
      t.deepEqual(
        readFileSync(`/proc/${pid}/cmdline`, 'utf8')
          .split('\0')
          .slice(-args.length - 1),
        [...args, '']
      )
      process.kill(pid, 'SIGHUP')
      const old = workers.map(worker => worker.pid)
      while ((await statusOf('app', place)).workers.some(worker => old.includes(worker.pid))) await ask(port)
      done = true
      await Promise.all(clients)
      t.true(answered > 0)
      t.is((await statusOf('app', place)).pid, pid)
      t.is((await runPassfd(['stop', 'app'], captured(env))).code, 0)
      await closed // the successor has ended, too, which had its stderr
      t.is(err.match(/ serves at /g)!.length, 2)
      // Without the option it ends nobody
      const streams = captured(env)
      const serves = runPassfd(['serve', '-w', '1', '--name', 'app', join(folder, '1', 'server.js')], streams)
      await until(() => / serves at /.test(streams.err), 'passfd serves')
      process.kill(process.pid, 'SIGUSR2')
      await until(
        () => /USR2 starts a successor only if the command line has --takeover\.\n/.test(streams.err),
        'a warning'
      )
      t.is((await runPassfd(['stop', 'app'], captured(env))).code, 0)
      t.is((await serves).code, 0)
    })
  }
)

testInCi('a package’s own command is served: npm start', async t => {
  await inPlace(async place => {
    const { folder, env } = place
    writeFileSync(join(folder, 'package.json'), '{"scripts":{"start":"node 1/server.js of-npm"}}')
    const { ended } = await serving(
      ['-w', '1', '--cwd', folder, '--name', 'app', '--', 'npm', 'start', '--silent'],
      place
    )
    t.is(await ask(portOf(await statusOf('app', place))), '1of-npm,,,')
    t.is((await runPassfd(['stop', 'app'], captured(env))).code, 0)
    t.is(await ended, 0)
  })
})

testInCi('--watch reloads at a change; what can’t start never replaces what serves', async t => {
  await inPlace(async place => {
    const { folder, env } = place
    const source = join(folder, '1', 'server.js')
    const answer = (text: string): void => writeFileSync(join(folder, '1', 'answer.json'), text)
    // The first start fails, too
    answer('{')
    const streams = captured(env)
    const ended = runPassfd(['serve', '--watch', join(folder, '1'), '--name', 'app', source], streams)
    await until(() => /Waiting for a change of a file\.\n/.test(streams.err), 'the failure of the first start')
    answer('"one"')
    await until(() => / serves at /.test(streams.err), 'passfd serves')
    const port = portOf(await statusOf('app', place))
    t.regex(await ask(port), /^one/)
    answer('"two"')
    while (!(await ask(port)).startsWith('two')); // no request fails meanwhile
    answer('{')
    await until(() => /The old code serves on\.\n/.test(streams.err), 'the failure of a reload')
    t.regex(streams.err, /SyntaxError/)
    t.regex(await ask(port), /^two/)
    answer('"three"')
    while (!(await ask(port)).startsWith('three'));
    t.regex(streams.err, /answer\.json has changed\.\n/)
    t.is((await runPassfd(['stop', 'app'], captured(env))).code, 0)
    t.is((await ended).code, 0)
  })
})
