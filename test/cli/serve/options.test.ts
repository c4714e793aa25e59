import { resolve } from 'node:path'
import { Command } from 'commander'
import { EXIT } from '../../../src/cli/exit.ts'
import { addOptions, OPTIONS, readConfiguration, type ServeOptions, wordKind } from '../../../src/cli/serve/options.ts'
import { captured, runPassfd } from '../../helpers/cli.ts'
import { test } from '../../helpers/test.ts'

function parsed(...words: string[]): ServeOptions {
  const command = new Command().exitOverride().configureOutput({ writeErr: () => {} })
  addOptions(command)
  return command.parse(words, { from: 'user' }).opts()
}

test('a command line', t => {
  t.deepEqual(parsed(), {})
  t.deepEqual(
    parsed(
      ...['-w', '4', '--max-rss', '300M', '--max-age=1h', '--listen', 'a=1', '--listen', 'b=/c', '--takeover'],
      ...['--env-file', 'x', '--env-file', 'y', '--balance', 'address', '--watch=src', '--watch=lib', '--import', 'tsx']
    ),
    {
      workers: 4,
      maxRss: 300 * 1024 ** 2,
      maxAge: 3_600_000,
      listen: { a: { port: 1 }, b: { path: '/c' } },
      takeover: true,
      envFile: ['x', 'y'],
      balance: { dispatch: 'address' },
      watch: ['src', 'lib'],
      import: ['tsx']
    }
  )
  t.is(parsed('--watch=').watch, true)
})

test('a wrong value names what is expected', async t => {
  const { code, err } = await runPassfd(['serve', '--max-age', '30', 'x.js'])
  t.is(code, EXIT.usage)
  t.is(
    err,
    "passfd: option '--max-age <time>' argument '30' is invalid. It must be a time with its unit: 500ms, 30s, 10m, 1h or 1h30m. Run \"passfd serve --help\".\n"
  )
})

test('a configuration has the same options, by their names', t => {
  const place = (path: string): string => resolve('/etc/app', path)
  t.deepEqual(
    readConfiguration(
      {
        workers: 'max',
        maxRss: '1G',
        stopTimeout: 500,
        listen: { web: 80 },
        envFile: '.env',
        cwd: 'current',
        watch: ['src']
      },
      'file',
      place
    ),
    {
      workers: 'max',
      maxRss: 1024 ** 3,
      stopTimeout: 500,
      listen: { web: { port: 80 } },
      envFile: ['/etc/app/.env'],
      cwd: '/etc/app/current',
      watch: ['/etc/app/src']
    }
  )
  const error: any = t.throws(() => readConfiguration({ maxAge: '5' }, 'passfd.config.js', place))
  t.is(error.exitCode, EXIT.config)
  t.regex(error.message, /^maxAge in passfd\.config\.js must be a time .*; it is "5"$/)
})

test('each option is in the help, unless it is a configuration’s alone', async t => {
  const { out } = await runPassfd(['serve', '--help'], captured())
  for (const [name, { flags }] of Object.entries(OPTIONS))
    if (flags === undefined) t.true(['env', 'program', 'args'].includes(name), name)
    else t.true(out.includes(flags.replace('…', '')), flags)
})

test('which word of a command line is an option with a value', t => {
  t.is(wordKind('-w'), 'with value')
  t.is(wordKind('--workers'), 'with value')
  t.is(wordKind('--workers=4'), 'alone')
  t.is(wordKind('--takeover'), 'alone')
  t.is(wordKind('--watch'), 'alone')
  t.is(wordKind('-'), undefined)
  t.is(wordKind('server.js'), undefined)
})
