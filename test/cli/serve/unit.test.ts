/** `passfd unit`; test/systemd/manager.test.ts starts one. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { EXIT } from '../../../src/cli/exit.ts'
import { quoted, unitOf } from '../../../src/cli/serve/unit.ts'
import { captured, runPassfd } from '../../helpers/cli.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { test } from '../../helpers/test.ts'

const BASE = { name: 'shop', options: {}, cwd: '/srv/shop', words: ['server.js'], perUser: false, user: 'shop' }

/** The value of the only setting of this name. */
function settingIn(unit: string, name: string): string | undefined {
  const found = unit.split('\n').filter(line => line.startsWith(`${name}=`))
  if (found.length > 1) throw new Error(`${name} is there ${found.length} times`)
  return found[0]?.slice(name.length + 1)
}

test('what it has: the command, the user, the folder, and time for what the server was told', t => {
  const unit = unitOf(BASE, '/srv/shop/passfd.mjs')
  t.is(settingIn(unit, 'ExecStart'), `${process.execPath} /srv/shop/passfd.mjs serve server.js`)
  t.is(settingIn(unit, 'User'), 'shop')
  t.is(settingIn(unit, 'WorkingDirectory'), '/srv/shop')
  t.is(settingIn(unit, 'TimeoutStopSec'), '45')
  t.is(settingIn(unit, 'WantedBy'), 'multi-user.target')
  t.is(settingIn(unit, 'Type'), 'notify')
  t.is(settingIn(unit, 'NotifyAccess'), undefined)
  t.is(settingIn(unit, 'ExecReload'), '/bin/kill -HUP $MAINPID')
  const limits = { lameDuck: 1500, stopTimeout: 600_000, killTimeout: 1 }
  t.is(settingIn(unitOf({ ...BASE, options: limits }), 'TimeoutStopSec'), '612')
  const own = unitOf({ ...BASE, cwd: '/srv/50%', perUser: true, user: undefined })
  t.is(settingIn(own, 'User'), undefined)
  t.is(settingIn(own, 'After'), undefined)
  t.is(settingIn(own, 'WorkingDirectory'), '/srv/50%%')
  t.is(settingIn(own, 'WantedBy'), 'default.target')
  t.regex(
    unit,
    /^# \/etc\/systemd\/system\/shop\.service: start it, now and at boot, by "systemctl enable --now shop"\.$/m
  )
  t.regex(own, /now and at login, by "systemctl --user enable --now shop"\.\n# .*loginctl enable-linger/)
})

test('words are quoted as systemd reads them', t => {
  const words: [string, string][] = [
    ['plain', 'plain'],
    ['--port=3000', '--port=3000'],
    ['', '""'],
    ['a b', '"a b"'],
    ['50%', '50%%'],
    ['$HOME', '"$$HOME"'],
    ['a"b', '"a\\"b"'],
    ["it's", '"it\'s"'],
    ['a\\b', '"a\\\\b"'],
    ['a\nb', '"a\\nb"'],
    ['a\rb', '"a\\rb"'],
    [';', '";"'],
    ['ä', '"ä"']
  ]
  for (const [word, expected] of words) t.is(quoted(word), expected)
  t.is(quoted('$HOME', false), '"$HOME"')
})

test('a folder as systemd reads it; one with a line break is refused', async t => {
  for (const [cwd, expected] of [
    ['/srv/my shop', '/srv/my shop'],
    ['/srv/shop ', '/srv/shop /'],
    ['/srv/shop\t', '/srv/shop\t/'],
    ['/srv/shop\\', '/srv/shop\\/'],
    ['/', '/']
  ])
    t.is(settingIn(unitOf({ ...BASE, cwd: cwd! }), 'WorkingDirectory'), expected, cwd)
  for (const cwd of ['/srv/a\nExecStartPre=/bin/false', '/srv/a\rb'])
    t.throws(() => unitOf({ ...BASE, cwd }), { message: /line break/ })
})

test("systemd takes a program's path as it is: a $ in it is no variable", t => {
  const { execPath } = process
  try {
    process.execPath = '/opt/a$b c%/node'
    t.true(
      settingIn(unitOf({ ...BASE, words: ['$x'] }, '/srv/$/passfd.mjs'), 'ExecStart')!.startsWith(
        '"/opt/a$b c%%/node" "/srv/$$/passfd.mjs" serve "$$x"'
      )
    )
  } finally {
    process.execPath = execPath
  }
})

test('a user must be a name or a number: an empty one would be root', async t => {
  const folder = temporaryPath('folder')
  mkdirSync(folder)
  writeFileSync(join(folder, 'server.js'), '')
  const before = process.cwd()
  process.chdir(folder)
  try {
    for (const user of ['', ' ', 'a b', 'a\nExecStartPre=/bin/false', 'a\r', 'a:b', 'a/b', '-x', 'a%'])
      for (const args of [['--run-as', user], [`--run-as=${user}`]]) {
        const { code, out, err } = await runPassfd(['unit', ...args, 'server.js'])
        t.deepEqual([code, out], [EXIT.usage, ''], user)
        t.regex(err, /a user's name or number/)
      }
    for (const user of ['www-data', '_x', '33', 'a.b', 'first.last@example.org', 'DOMAIN\\user'])
      t.is(settingIn((await runPassfd(['unit', '--run-as', user, 'server.js'])).out, 'User'), user)
  } finally {
    process.chdir(before)
  }
})

test('a command is found in the folders that the unit has, or in those of the shell, which it then has, too', async t => {
  const folder = temporaryPath('folder')
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true })
  mkdirSync(join(folder, 'far'))
  for (const name of ['node_modules/.bin/near-command', 'far/far-command'])
    writeFileSync(join(folder, name), '', { mode: 0o755 })
  const before = process.cwd()
  process.chdir(folder)
  const env = { PATH: `${join(folder, 'none')}:far:/usr/bin` }
  try {
    const path = async (command: string): Promise<string> => {
      const { out, err } = await runPassfd(['unit', command], captured(env))
      t.is(err, '')
      return out.split('\n').find(line => /^Environment="?PATH=/.test(line))!
    }
    t.notRegex(await path('near-command'), new RegExp(folder))
    t.notRegex(await path('sh'), new RegExp(folder))
    t.true((await path('far-command')).endsWith(`:${join(folder, 'far')}`))
    const { code, out, err } = await runPassfd(['unit', 'no-such-command'], captured(env))
    t.deepEqual([code, out], [EXIT.noInput, ''])
    t.regex(err, /There is no command "no-such-command"/)
  } finally {
    process.chdir(before)
  }
})

test('the options of passfd serve go on, in their order; its own do not; those of the program are the program’s', async t => {
  const folder = temporaryPath('folder')
  mkdirSync(folder)
  writeFileSync(join(folder, 'server.js'), '')
  const before = process.cwd()
  process.chdir(folder)
  try {
    const words = ['-w', '2', '--max-rss', '300M', '--stop-timeout', '1s', 'server.js', '--run-as', 'x', '--per-user']
    const unit = await runPassfd(['unit', '--run-as', 'shop', '--name', 'web', ...words])
    t.deepEqual([unit.code, unit.err], [0, ''])
    t.regex(
      settingIn(unit.out, 'ExecStart')!,
      / serve --name web -w 2 --max-rss 300M --stop-timeout 1s server\.js --run-as x --per-user$/
    )
    t.is(settingIn(unit.out, 'User'), 'shop')
    t.is(settingIn(unit.out, 'TimeoutStopSec'), '16')
    t.is(settingIn(unit.out, 'RuntimeDirectory'), 'web')
    // Wherever they stand before the program, also behind values and folders
    mkdirSync(join(folder, 'src'))
    const mixed = [
      '-w',
      '2',
      '--run-as',
      'shop',
      '--watch',
      'src',
      '--run-as=web',
      '--stop-timeout=1s',
      'server.js',
      'x'
    ]
    const other = await runPassfd(['unit', ...mixed])
    t.deepEqual([other.code, other.err], [0, ''])
    t.regex(settingIn(other.out, 'ExecStart')!, / serve -w 2 --watch=src --stop-timeout=1s server\.js x$/)
    t.is(settingIn(other.out, 'User'), 'web')
    const own = await runPassfd(['unit', '-w', '2', '--per-user', '--', 'server.js', '--per-user'])
    t.regex(settingIn(own.out, 'ExecStart')!, / serve -w 2 -- server\.js --per-user$/)
    t.is(settingIn(own.out, 'WantedBy'), 'default.target')
    const taking = await runPassfd(['unit', '--takeover', '-w', '2', 'server.js'])
    t.regex(settingIn(taking.out, 'ExecStart')!, / serve --takeover -w 2 server\.js$/)
    t.is(settingIn(taking.out, 'ExecReload'), '/bin/kill -USR2 $MAINPID')
    t.is(settingIn(taking.out, 'NotifyAccess'), 'all')
    const wrong: [string[], number, RegExp][] = [
      [['unit'], EXIT.usage, /No program is named/],
      [['unit', 'none.js'], EXIT.noInput, /There is no program/],
      [['unit', '--per-user', '--run-as', 'shop', 'server.js'], EXIT.usage, /no other users/],
      [['unit', '--max-rss', 'much', 'server.js'], EXIT.usage, /a size with its unit/]
    ]
    for (const [args, code, says] of wrong) {
      const { code: actual, out, err } = await runPassfd(args, captured())
      t.is(actual, code, err)
      t.regex(err, says)
      t.is(out, '')
    }
  } finally {
    process.chdir(before)
  }
})
