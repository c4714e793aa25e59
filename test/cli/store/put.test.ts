import { existsSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { captured } from '../../helpers/cli.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { storeCommand, withStore } from '../../helpers/store-cli.ts'
import { test } from '../../helpers/test.ts'

test('files, listeners and inherited descriptors, in the order of the command line, with a value', t =>
  withStore(async ({ client, run }) => {
    const [path, port] = [temporaryPath(), await freePort()]
    const { code, out, err } = await run(
      ...['put', 'all', '--file', `${path}:w+`, '--listen', `127.0.0.1:${port}`, '--file', '/dev/null'],
      ...['--value', '{"job":[7]}', '--ttl', '1h', '--json']
    )
    t.deepEqual({ code, err }, { code: 0, err: '' })
    t.deepEqual(JSON.parse(out), {
      entry: 1,
      name: 'all',
      kinds: ['file', 'tcp-listener', 'device'],
      listeners: [`127.0.0.1:${port}`]
    })
    const copy = (await client.copy('all'))!
    t.deepEqual(copy.value, { job: [7] })
    t.true(copy.ttl! > 3_590_000 && copy.ttl! <= 3_600_000)
    writeSync(copy.descriptor.borrow(), 'hello')
    t.is(readFileSync(path, 'utf8'), 'hello')
    for (const descriptor of copy.descriptors) descriptor.close()
    t.like(await run('put', 'socket', '--listen', '127.0.0.1:0'), { code: 0, out: '' })
    t.regex(
      (await run('put', 'http', '--listen', '127.0.0.1:0')).err,
      /^passfd: the store has http: tcp-listener on 127/
    )
  }))

test('a name that is there: nothing is bound, created or truncated; --replace', t =>
  withStore(async ({ client, run }) => {
    const [first, second] = [temporaryPath(), temporaryPath()]
    writeFileSync(first, 'first')
    t.is((await run('put', 'file', '--file', first)).code, 0)
    const { code, err } = await run('put', 'file', '--file', `${second}:w`, '--listen', temporaryPath('socket'))
    t.deepEqual(
      { code, err },
      {
        code: 73,
        err: 'passfd: The store has an entry named file already. Choose another name, or replace it with --replace.\n'
      }
    )
    t.false(existsSync(second))
    t.is((await run('put', 'file', '--replace', '--file', `${second}:w`)).code, 0)
    t.is((await client.list()).length, 1)
    t.true(existsSync(second))
  }))

test('what the store refuses leaves no socket file behind', t =>
  withStore(
    async ({ client, run }) => {
      const path = temporaryPath('socket')
      const { code, err } = await run('put', 'full', '--listen', path, '--file', '/dev/null')
      t.is(code, 75)
      t.regex(err, /^passfd: The store takes no more: .*descriptors.*at most 1/)
      t.false(existsSync(path))
      const bad = await run('put', 'poll', '--poll', '--file', '/dev/null')
      t.is(bad.code, 64)
      t.is((await run('put', 'poll', '--no-poll', '--file', '/dev/null')).code, 0)
      t.deepEqual(
        (await client.list()).map(({ poll }) => poll),
        [false]
      )
    },
    { total: { descriptors: 1 } }
  ))

test('a user without the right to it is denied, and --owner names another user', t =>
  withStore(
    async ({ client, run }) => {
      t.is((await run('put', 'mine', '--file', '/dev/null')).code, 77)
      t.is((await run('put', 'his', '--owner', '4711', '--file', '/dev/null')).code, 0)
      t.deepEqual(
        (await client.list({ owner: 4711 })).map(({ name, owner }) => [name, owner]),
        [['his', 4711]]
      )
    },
    { rules: [{ user: process.geteuid!(), owner: 4711, read: true, write: true }] }
  ))

test('a port that is taken, a value from stdin, and what is wrong with the command line', t =>
  withStore(async ({ path, client, run, runIn }) => {
    const server = createServer().listen(0, '127.0.0.1')
    await new Promise(resolve => server.once('listening', resolve))
    const { port } = server.address() as { port: number }
    t.is((await run('put', 'http', '--listen', `127.0.0.1:${port}`)).code, 73)
    server.close()
    const env = { ...process.env, PASSFD_STORE: path }
    t.is((await runIn(captured(env, { stdin: '"text"' }), 'put', 'v', '--file', '/dev/null', '--value', '-')).code, 0)
    const copy = (await client.copy('v'))!
    t.is(copy.value, 'text')
    copy.descriptor.close()
    for (const [args, code, what] of [
      [['put', 'x'], 64, /No descriptor is named/],
      [['put', 'x*', '--file', '/dev/null'], 64, /"x\*" is no name of an entry/],
      [['put', 'x', '--file', '/dev/null', '--value', '{'], 65, /not JSON/],
      [['put', 'x', '--fd', '0', '--value', '-'], 64, /stdin can not be both/],
      [['put', 'x', '--fd', '999'], 66, /No descriptor 999 was inherited/],
      [['put', 'x', '--file', '/no/such/file'], 66, /no such file/],
      [['put', 'x', '--file', '/dev/null', '--ttl', '5'], 64, /a time with its unit/],
      [['put', 'x', '--listen', 'a:b'], 64, /It is a port/]
    ] as const) {
      const ended = await run(...args)
      t.is(ended.code, code, args.join(' '))
      t.regex(ended.err, what)
    }
    t.is((await client.list()).length, 1)
  }))

test('no store: exit code 69, and nothing is created', async t => {
  const [path, file] = [temporaryPath('none'), temporaryPath()]
  const { code, err } = await storeCommand(['put', 'x', '--socket', path, '--file', `${file}:w`])
  t.is(code, 69)
  t.is(err, `passfd: No store answers at ${path}. Start it with "passfd store", or add --wait.\n`)
  t.false(existsSync(file))
})
