/** `passfd store copy` and `take`. */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../../src/index.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { type Running, start } from '../../helpers/process.ts'
import { childrenOf, zombies } from '../../helpers/processes.ts'
import { missing } from '../../helpers/programs.ts'
import { type StorePlace, withStore } from '../../helpers/store-cli.ts'
import { test, testInCi, testInCiIf, until } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const UNSHARE = '/usr/bin/unshare'
const WRITES = 'echo "$LISTEN_FDS $LISTEN_FDNAMES $((LISTEN_PID == $$)) $PASSFD_VALUE" >"$0"; exit 7'

function fileWith(contents: string): Descriptor {
  const path = temporaryPath()
  writeFileSync(path, contents)
  return Descriptor.openSync(path)
}

async function names({ client }: StorePlace): Promise<string[]> {
  return (await client.list()).map(({ name, leased }) => (leased === undefined ? name : `${name} (taken)`))
}

/** A process of its own, without the terminal in which the tests may run. */
function started({ path }: StorePlace, ...args: string[]): Running {
  const env = { ...process.env, PASSFD_STORE: path }
  return start(process.execPath, [command, 'store', ...args], { env, detached: true })
}

test('copy: a command has the descriptors, their names and the value; the entry stays', t =>
  withStore(async place => {
    const out = temporaryPath('out')
    const { client, run } = place
    await client.put('web', [fileWith('a'), fileWith('b')], { value: { n: [1] } })
    await client.put('log', fileWith('c'))
    t.like(await run('copy', 'web', '--', 'sh', '-c', WRITES, out), { code: 7, out: '', err: '' })
    t.is(readFileSync(out, 'utf8'), '2 web:web-2 1 {"n":[1]}\n')
    t.like(await run('copy', 'log', '--exec', 'sh', '-c', WRITES, out), { code: 7 })
    t.is(readFileSync(out, 'utf8'), '1 log 1 null\n')
    t.like(await run('copy', 'log', 'web', '--exec', 'sh', '-c', WRITES, out), { code: 7 })
    t.is(readFileSync(out, 'utf8'), '3 log:web:web-2 1 {"log":null,"web":{"n":[1]}}\n')
    t.like(await run('copy', 'log', '--', 'sh', '-c', 'cat <&3 >"$0"', out), { code: 0 })
    t.is(readFileSync(out, 'utf8'), 'c')
    t.deepEqual(await names(place), ['web', 'log'])
  }))

test('copy without a command shows the entries', t =>
  withStore(async ({ client, run }) => {
    await client.put('web', [await Descriptor.bind({ host: '127.0.0.1', port: 0 })], { value: Buffer.from('hi') })
    await client.put('log', fileWith('hello'), { ttl: 60_000 })
    const { code, out } = await run('copy', 'web', 'log')
    t.is(code, 0)
    const [web, log] = out.split('\n', 2).map(line => JSON.parse(line))
    t.like(web, { name: 'web', owner: process.geteuid!(), value: { $bytes: 'aGk=' }, pid: process.pid, poll: false })
    t.regex(web.descriptors[0].local, /^127\.0\.0\.1:\d+$/)
    t.like(log.descriptors, [{ kind: 'file', size: 5 }])
    t.true(log.ttl <= 60_000)
    t.false('value' in log)
  }))

test('take: the entry is the command’s alone, as soon as it runs', t =>
  withStore(async place => {
    const { client } = place
    await client.put('job', fileWith('job'))
    const taking = started(place, 'take', 'job', '--', 'sh', '-c', 'cat <&3; echo; read end; exit 5')
    t.is(await taking.line(), 'job')
    for await (const change of client.watch())
      if ('entries' in change ? change.entries.length === 0 : change.event === 'kept') break
    taking.child.stdin!.end('\n')
    t.like(await taking.exit, { code: 5, stderr: '' })
    t.deepEqual(await names(place), [])
  }))

test('take: a command that can not be started gives the entries back, one that fails does not', t =>
  withStore(async place => {
    const { client, run } = place
    for (const name of ['a', 'b']) await client.put(name, fileWith(name))
    for (const [missing, code] of [
      ['/no/such/command', 127],
      ['/', 126]
    ] as const) {
      const ended = await run('take', 'a', 'b', '--', missing)
      t.is(ended.code, code)
      t.is(ended.err, 'passfd: a, b are in the store again: no command runs.\n')
      t.deepEqual(await names(place), ['a', 'b'])
    }
    t.like(await run('take', 'a', 'missing', '--', 'true'), { code: 66 })
    t.deepEqual(await names(place), ['a', 'b'])
    t.like(await run('take', 'a', '--', 'false'), { code: 1, err: '' })
    t.deepEqual(await names(place), ['b'])
  }))

test('take: a value that is too large for a variable, an entry that is taken, a missing command', t =>
  withStore(async place => {
    const { client, run } = place
    await client.put('large', fileWith(''), { value: '\u0001'.repeat(60_000) })
    t.is((await run('take', 'large', '--', 'true')).code, 65)
    t.is((await run('copy', 'large', '--', 'true')).code, 65)
    t.deepEqual(await names(place), ['large'])
    const lease = (await client.take('large'))!
    for (const what of ['take', 'copy'])
      t.regex((await run(what, 'large', '--', 'true')).err, new RegExp(`Process ${process.pid} has taken large`))
    t.is((await run('take', 'large', '--', 'true')).code, 75)
    await lease.release()
    for (const args of [
      ['take', 'large'],
      ['take', 'large', '--'],
      ['copy', '--', 'true'],
      ['copy', 'large', '--exec'],
      ['copy', 'large', 'large']
    ])
      t.is((await run(...args)).code, 64, args.join(' '))
    const { code, err } = await run('copy', 'none')
    t.is(code, 66)
    t.regex(err, /has no entry named none\. "passfd store list" shows what there is\.\n$/)
  }))

test('the command has the only copies: its end is the end of the connection', t =>
  withStore(async place => {
    const { client } = place
    const [one, other] = Descriptor.socketpair()
    await client.put('end', one)
    const taking = started(place, 'take', 'end', '--', 'sh', '-c', 'exec 3<&-; read end')
    // The store has closed its copy, and passfd has none
    const stream = other.toSocket()
    stream.resume()
    await new Promise(resolve => stream.once('end', resolve))
    stream.destroy()
    taking.child.stdin!.end()
    t.is((await taking.exit).code, 1)
  }))

testInCi('signals: passfd passes them on, and ends by the signal that has ended the command', t =>
  withStore(async place => {
    await place.client.put('a', fileWith(''))
    for (const [signal, shown] of [
      ['SIGTERM', { code: null, signal: 'SIGTERM' }],
      ['SIGINT', { code: null, signal: 'SIGINT' }],
      ['SIGHUP', { code: null, signal: 'SIGHUP' }],
      ['SIGUSR1', { code: 138, signal: null }],
      ['SIGKILL', { code: 137, signal: null }]
    ] as const) {
      const running = started(place, 'copy', 'a', '--', 'sh', '-c', 'echo $$; exec sleep 100')
      const pid = Number(await running.line())
      if (signal === 'SIGKILL') process.kill(pid, signal)
      else running.child.kill(signal)
      t.like(await running.exit, { ...shown, stderr: '' }, signal)
    }
    // A program that handles the signal decides itself
    const handles = started(
      place,
      'copy',
      'a',
      '--',
      'sh',
      '-c',
      'trap "exit 3" HUP; echo; while :; do sleep 0.1; done'
    )
    await handles.line()
    handles.child.kill('SIGHUP')
    t.like(await handles.exit, { code: 3 })
  })
)

testInCiIf(
  missing(UNSHARE, 'util-linux'),
  'as PID 1 of a container: it reaps orphans, passes TERM on, and ends with the exit code',
  t =>
    withStore(async ({ path, client }) => {
      await client.put('a', fileWith(''))
      const namespace = ['--pid', '--fork', '--mount-proc', '--kill-child']
      const script = 'trap "echo got TERM; exit 5" TERM; (sleep 0.01 & echo started); while :; do sleep 0.1; done'
      for (const [line, code] of [
        [script, 5],
        ['(sleep 0.01 & echo started); exec sleep 100', 143]
      ] as const) {
        const running = start(
          UNSHARE,
          [...namespace, process.execPath, command, 'store', 'copy', 'a', '--', 'sh', '-c', line],
          { env: { ...process.env, PASSFD_STORE: path } }
        )
        t.is(await running.line(), 'started')
        const [init] = childrenOf(running.child.pid!)
        await until(() => childrenOf(init!).length === 1 && zombies(init!).length === 0, 'the orphan is reaped')
        process.kill(init!, 'SIGTERM')
        if (code === 5) t.is(await running.line(), 'got TERM')
        t.like(await running.exit, { code })
      }
    })
)
