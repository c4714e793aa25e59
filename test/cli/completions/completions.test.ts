/** The scripts for shells, in these shells. */
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command, Option } from 'commander'
import { treeOf } from '../../../src/cli/completions/tree.ts'
import { EXIT } from '../../../src/cli/exit.ts'
import { runtimeFolder } from '../../../src/cli/names.ts'
import { Descriptor } from '../../../src/index.ts'
import { connectStore } from '../../../src/store/index.ts'
import { runPassfd } from '../../helpers/cli.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { missing } from '../../helpers/programs.ts'
import { startInTerminal } from '../../helpers/pty.ts'
import { test, testIf, testInCi, testInCiIf, until } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const NOBODY = 65_534
const missingZsh = missing('/usr/bin/zsh', 'zsh')
const missingFish = missing('/usr/bin/fish', 'fish')

/** What is typed, the last word not to its end, and all that it can become. `=` and `:` stand alone, as bash splits words there. */
const CASES: readonly (readonly [typed: string[], words: string[]])[] = [
  [['to'], ['top']],
  [
    ['top', ''],
    ['shop', 'shop-2']
  ],
  [['top', '--o'], ['--once']],
  [['top', '--once', 'shop-'], ['shop-2']],
  [['top', './fol'], ['./folder']],
  [
    ['scale', '4', 'sh'],
    ['shop', 'shop-2']
  ],
  [['scale', ''], []],
  [['serve', '--na'], ['--name']],
  [
    ['serve', '--name', ''],
    ['shop', 'shop-2']
  ],
  [['serve', '-w', '4', 'serv'], ['server.js']],
  [['serve', 'server.js', '--js'], []],
  [['serve', 'server.js', 'fol'], ['folder']],
  [['serve', '--cwd', ''], ['folder']],
  [['serve', '--max-rss', ''], []],
  [
    ['serve', '--log', ''],
    ['json', 'text']
  ],
  [['serve', '--balance', 'l'], ['least-connections']],
  [['takeover', 'st'], ['status']],
  [['store', 'c'], ['copy']],
  [['store', '--ta'], ['--takeover']],
  [['store', 'list', '--na'], ['--names']],
  [['store', 'copy', 'ht'], ['http']],
  [
    ['store', 'remove', 'http', ''],
    ['http', 'log']
  ],
  [['takeover', 'status', 'shop-'], ['shop-2']],
  [
    ['completions', ''],
    ['bash', 'fish', 'zsh']
  ],
  [['help', 'comp'], ['completions']],
  [['help', 'he'], []]
]

interface Place {
  folder: string
  env: NodeJS.ProcessEnv
}

async function script(shell: string): Promise<string> {
  return (await runPassfd(['completions', shell])).out
}

/** A folder with two servers' sockets, a file that is none, a program, and a folder. */
async function inPlace(body: (place: Place) => void | Promise<void>): Promise<void> {
  const folder = mkdtempSync(temporaryPath('place'))
  mkdirSync(join(folder, 'folder'))
  writeFileSync(join(folder, 'server.js'), '')
  const runtime = mkdtempSync(temporaryPath('runtime'))
  writeFileSync(join(runtime, 'file.sock'), '')
  const servers = await Promise.all(['shop', 'shop-2'].map(name => listening(join(runtime, `${name}.sock`))))
  // In a process of its own, because the shells run while this one waits
  const store = start(process.execPath, [command, 'store', '--socket', join(runtime, 'store.socket')])
  let said = ''
  store.child.stderr!.on('data', text => {
    said += text
  })
  await until(() => said.includes('the store listens at'), 'the store')
  const client = await connectStore(join(runtime, 'store.socket'))
  for (const name of ['http', 'log']) await client.put(name, Descriptor.openSync('/dev/null'))
  await client.close()
  mkdirSync(join(runtime, 'bin'))
  symlinkSync(command, join(runtime, 'bin/passfd'))
  const PATH = `${join(runtime, 'bin')}:${process.env.PATH}`
  try {
    await body({ folder, env: { ...process.env, PATH, PASSFD_RUNTIME_DIR: runtime, HOME: folder } })
  } finally {
    store.child.kill()
    await store.exit
    for (const server of servers) server.close()
    for (const each of [folder, runtime]) rmSync(each, { recursive: true })
  }
}

function listening(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer().listen(path, () => resolve(server))
    server.on('error', reject)
  })
}

function run(command: string, args: string[], { folder, env }: Place, more = {}): string[] {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: folder, env, encoding: 'utf8', ...more })
  if (status !== 0 || stderr !== '') throw new Error(`${command}: ${status} ${stderr}`)
  return stdout.split('\n').slice(0, -1)
}

/** For the function of bash: `compopt` works only while bash itself completes. */
const ASK_BASH = `compopt() { :; }
ask() { COMP_WORDS=(passfd "$@"); COMP_CWORD=$#; _passfd; local IFS=' '; echo "\${COMPREPLY[*]}"; }
`

function word(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`
}

test('bash completes commands, options, names of servers, and files where they may stand', async t => {
  const source = await script('bash')
  const more: typeof CASES = [
    [['top', '--once', '--', '--js'], []],
    [['serve', '--log-file', '=', 'serv'], ['server.js']],
    [
      ['serve', '--log-file', '='],
      ['folder', 'server.js']
    ],
    [['serve', '--listen', 'web', '=', '127.0.0.1', ':', '80', '--ad'], ['--admin']],
    [['serve', '--watch', '--ad'], ['--admin']]
  ]
  const cases = [...CASES, ...more]
  await inPlace(place => {
    const asked = cases.map(([typed]) => `ask ${typed.map(word).join(' ')}`).join('\n')
    const answers = run('/bin/bash', ['-c', `${source}${ASK_BASH}${asked}`], place)
    for (const [index, [typed, words]] of cases.entries())
      t.deepEqual(answers[index]!.split(' ').filter(Boolean).sort(), words, typed.join(' '))
  })
})

/** A shell function in the place of passfd, which shows what it gets. */
const SHOWS = `passfd() { printf '<%s>' "$@"; echo; }`

/** Types each line with a Tab behind it; the shell runs what that makes of it. */
async function typed(shell: string, args: string[], begin: string, place: Place, lines: Record<string, string>) {
  const terminal = startInTerminal(shell, args, { env: { ...place.env, PS1: '$ ', TERM: 'xterm' } })
  try {
    terminal.type(`cd ${place.folder}; ${begin}\r`)
    terminal.type(`echo rea''dy\r`)
    await terminal.shows(/^ready/)
    for (const [line, shown] of Object.entries(lines)) {
      terminal.type(`passfd ${line}\t\r`)
      await terminal.shows(new RegExp(`^${shown}`))
    }
  } finally {
    terminal.kill('SIGKILL')
    await terminal.exit
  }
}

const TYPED = {
  to: '<top>',
  'top shop-': '<top><shop-2>',
  'top ./fol': '<top><\\./folder/?>',
  'serve --wait': '<serve><--wait-ready>',
  'serve -w 2 serv': '<serve><-w><2><server\\.js>',
  'takeover st': '<takeover><status>',
  'store copy ht': '<store><copy><http>'
}

testInCi('bash: a Tab in a terminal', async t => {
  const file = temporaryPath('bash')
  writeFileSync(file, await script('bash'))
  await inPlace(place => typed('/bin/bash', ['--norc', '--noprofile', '-i'], `source ${file}; ${SHOWS}`, place, TYPED))
  t.pass()
})

testInCiIf(missingZsh, 'zsh: a Tab in a terminal, with the script sourced, and as a file in $fpath', async t => {
  const source = await script('zsh')
  const functions = mkdtempSync(temporaryPath('fpath'))
  const file = join(functions, '_passfd')
  writeFileSync(file, source)
  for (const load of [
    `autoload -Uz compinit; compinit -u -D; source ${file}`,
    `fpath=(${functions} $fpath); autoload -Uz compinit; compinit -u -D`
  ])
    await inPlace(place =>
      typed('/usr/bin/zsh', ['-f', '-i'], `unsetopt prompt_sp; ${load}; ${SHOWS}`, place, {
        ...TYPED,
        'serve --admin=serv': '<serve><--admin=server\\.js>',
        'serve server.js --wait': '<serve><server\\.js><--wait>'
      })
    )
  t.pass()
})

testIf(missingFish, 'fish completes commands, options, names of servers, and files where they may stand', async t => {
  const file = temporaryPath('fish')
  writeFileSync(file, await script('fish'))
  await inPlace(place => {
    const asked = CASES.map(
      ([typed]) => `echo (complete -C ${word(`passfd ${typed.join(' ')}`)} | string split -f1 \\t)`
    )
    const answers = run('/usr/bin/fish', ['--no-config', '-c', `source ${file}\n${asked.join('\n')}`], place)
    for (const [index, [typed, words]] of CASES.entries()) {
      const found = answers[index]!.split(' ').filter(Boolean)
      t.deepEqual(found.map(one => one.replace(/\/$/, '')).sort(), words, typed.join(' '))
    }
  })
})

testIf(
  process.getuid!() === 0 ? missingFish : 'only root starts a process of another user',
  '(u) the shells look for servers where passfd does',
  async t => {
    const temporary = mkdtempSync(temporaryPath('temporary'))
    chmodSync(join(temporary, '..'), 0o755)
    chownSync(temporary, NOBODY, NOBODY)
    const [bash, fish] = [await script('bash'), await script('fish')]
    for (const env of [
      { XDG_RUNTIME_DIR: join(temporary, 'xdg') },
      { TMPDIR: temporary },
      { PASSFD_RUNTIME_DIR: temporary }
    ]) {
      const folder = runtimeFolder(false, { env, uid: NOBODY, temporary })
      mkdirSync(folder, { recursive: true })
      chmodSync(folder, 0o755)
      const server = await listening(join(folder, 'there.sock'))
      const place = { folder: '/', env: { PATH: process.env.PATH, HOME: '/nonexistent', ...env } }
      const user = { uid: NOBODY, gid: NOBODY }
      t.deepEqual(run('/bin/bash', ['-c', `${bash}_passfd_names`], place, user), ['there'])
      t.deepEqual(run('/usr/bin/fish', ['--no-config', '-c', `${fish}\n__passfd_names`], place, user), ['there'])
      server.close()
    }
    rmSync(temporary, { recursive: true })
  }
)

test('another shell is an error that names those that there are', async t => {
  const { code, err } = await runPassfd(['completions', 'csh'])
  t.is(code, EXIT.usage)
  t.regex(err, /bash, zsh, fish/)
})

test('the tree of a program: hidden things are left out, values are known by their names', t => {
  const program = new Command('x').description('Does it. And more.').helpCommand(true).enablePositionalOptions()
  program.addOption(new Option('--secret <file>').hideHelp())
  program.option('-l, --log <format>', 'how').option('-d, --dir [folder]', 'where')
  program.addOption(new Option('--level <level>', 'how much').choices(['low', 'high']))
  program.command('gone', { hidden: true })
  program.command('run').argument('<server>').argument('[args...]').passThroughOptions()
  const { options, commands, ...rest } = treeOf(program)
  t.deepEqual(rest, { path: [], description: 'Does it', operands: [], passesOn: false })
  t.deepEqual(
    options.map(({ names, value }) => [names.join(), value?.kind, value?.optional]),
    [
      ['-l,--log', 'other', false],
      ['-d,--dir', 'folder', true],
      ['--level', 'choices', false],
      ['-h,--help', undefined, undefined]
    ]
  )
  t.deepEqual(
    commands.map(({ path, operands, passesOn }) => [path, operands.map(({ kind }) => kind), passesOn]),
    [
      [['run'], ['server', 'file'], true],
      [['help'], ['choices'], false]
    ]
  )
  t.deepEqual(commands[1]!.operands[0]!.choices, ['run'])
})
