/** The documentation is true: its programs run and print what they say, its tables and lists are those of the sources. */
import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transformSync } from 'esbuild'
import { errorCodes } from '../src/base/errors.ts'
import { channelLimits, serverLimits } from '../src/channel/options.ts'
import { SocketWire } from '../src/channel/wire.ts'
import { moveOut } from '../src/descriptor/descriptor.ts'
import * as passfd from '../src/index.ts'
import { native } from '../src/os/native.ts'
import { settingsOf } from '../src/prefork/options.ts'
import { settingsOf as takeOverSettings } from '../src/takeover/options.ts'
import { isFull } from './helpers/full.ts'
import { temporaryPath } from './helpers/path.ts'
import { outputOf, type Running, start, startFixture } from './helpers/process.ts'
import { test, until } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const documents = [
  ...readdirSync(root).filter(name => name.endsWith('.md')),
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.md'))
    .map(name => `docs/${name}`)
]
/** pages.test.ts plays the sessions of these. */
const isPage = (document: string): boolean => /^docs\/(?:jobs|from|deploy)\//.test(document)

// esbuild opens a thread once: before anything is counted
transformSync('')

// --- programs

/**
 * A fenced block. A `js` or `ts` block is a program: alone, or, if its first line is `// name.mjs`, one of those that a `console`
 * block starts by `$ node name.mjs`. Only the syntax of a `js fragment` is checked.
 */
interface Block {
  language: string
  info: string
  code: string
  line: number
  /** The name in its first line. */
  name: string | undefined
}

for (const document of documents) {
  const blocks = blocksOf(document)
  for (const block of blocks) {
    const { language, info, code, line, name } = block
    const place = `${document}, line ${line}`
    if (language === 'console') {
      if (/^\$ node /.test(code) && !isPage(document))
        test(`${place}: prints what it shows`, t => checkSession(t, block, blocks))
    } else if (info === 'fragment')
      test(`${place}: a fragment in correct syntax`, async t => {
        syntaxErrors ??= checkFragments()
        t.is((await syntaxErrors).get(code), '')
      })
    else if (isAlone(block))
      test(`${place}: runs, and prints what its comments say`, async t => {
        const { lines, ...exit } = await ranBlock(block)
        t.deepEqual(exit, { code: 0, signal: null, stderr: '' })
        for (const [, expected] of code.matchAll(/console\.log\(.*\) \/\/ (.+)$/gm))
          t.true(lines.includes(expected!), expected)
      })
    else if (['js', 'ts'].includes(language) && !isPage(document))
      test(`${place}: a console block starts ${name}`, t => {
        t.true(
          blocks.some(
            other =>
              (other.language === 'console' && other.code.includes(`$ node ${name}`)) ||
              other.code.includes(`'${name}'`)
          )
        )
      })
  }
}

test('every block says what it is', t => {
  const known = [
    'js',
    'ts',
    'console',
    'sh',
    'hex',
    'ini',
    'yaml',
    'dockerfile',
    'nginx',
    'haproxy',
    'python',
    'go',
    'c',
    ''
  ]
  for (const document of documents)
    for (const { language, line } of blocksOf(document)) t.true(known.includes(language), `${document}, line ${line}`)
})

interface Ran {
  lines: string[]
  code: number | null
  signal: NodeJS.Signals | null
  stderr: string
}

/** What became of the programs that have run, by their code. */
const ran = new Map<string, Ran>()

/** A full run starts a process for each program; in a normal one they share a process, and those behind one that fails get another. */
async function ranBlock(block: Block): Promise<Ran> {
  if (!ran.has(block.code)) {
    const programs = isFull
      ? [block]
      : documents.flatMap(blocksOf).filter(other => isAlone(other) && !ran.has(other.code))
    for (const [index, result] of (await runInTurn(programs)).entries()) ran.set(programs[index]!.code, result)
  }
  return ran.get(block.code)!
}

function isAlone({ language, info, name }: Block): boolean {
  return ['js', 'ts'].includes(language) && info !== 'fragment' && name === undefined
}

/** Runs programs in one process, each in a folder of its own, until one of them ends that process: of what has run, how it went. */
async function runInTurn(programs: Block[]): Promise<Ran[]> {
  const above = workspace()
  const paths = programs.map(({ language, code }, index) => {
    const folder = join(above, String(index))
    mkdirSync(folder)
    const path = join(folder, 'program.mjs')
    writeFileSync(path, language === 'ts' ? transformSync(code, { loader: 'ts' }).code : code)
    return path
  })
  const mark = `-- ${randomUUID()} ends with`
  const running = startFixture('one-after-another', [mark, ...paths])
  const lines = await outputOf(running)
  const { code, signal, stderr } = await running.exit
  const said = `${lines.join('\n')}\n`.split(ended(mark))
  const complaints = stderr.split(ended(mark))
  const results: Ran[] = []
  while (said.length > 1) {
    const [text, ending] = said.splice(0, 2)
    const [complaint] = complaints.splice(0, 2)
    results.push({ lines: text!.split('\n'), code: Number(ending), signal: null, stderr: complaint! })
  }
  if (results.length < programs.length)
    results.push({ lines: said[0]!.split('\n'), code, signal, stderr: complaints[0]! })
  return results
}

function ended(mark: string): RegExp {
  return new RegExp(`${mark} (\\d+)\\n`)
}

let syntaxErrors: Promise<Map<string, string>> | undefined

/** One process looks at all of them: for each, what is wrong with it as a module, or ''. */
async function checkFragments(): Promise<Map<string, string>> {
  const fragments = documents.flatMap(blocksOf).filter(({ info }) => info === 'fragment')
  const file = temporaryPath('fragments')
  writeFileSync(file, JSON.stringify(fragments.map(({ code }) => code)))
  const program = `
    const { readFileSync } = require('node:fs')
    const { SourceTextModule } = require('node:vm')
    for (const code of JSON.parse(readFileSync(process.argv[1], 'utf8')))
      try {
        new SourceTextModule(code)
        console.log('""')
      } catch (error) {
        console.log(JSON.stringify(error.stack))
      }`
  const running = start(process.execPath, ['--no-warnings', '--experimental-vm-modules', '-e', program, file])
  const errors = await outputOf(running)
  const { code, stderr } = await running.exit
  if (code !== 0 || errors.length !== fragments.length) throw new Error(`not all were looked at: ${stderr}`)
  return new Map(fragments.map(({ code }, index) => [code, JSON.parse(errors[index]!)]))
}

/** Starts the programs of a console block, one when the one before has said something, and compares what they say. */
async function checkSession(t: Parameters<Parameters<typeof test>[1]>[0], { code }: Block, blocks: Block[]) {
  const folder = workspace()
  for (const { name, code: program } of blocks) if (name !== undefined) writeFileSync(join(folder, name), program)
  const commands = [...code.matchAll(/^\$ node (\S+)/gm)].map(([, name]) => name!)
  const running: Running[] = []
  const lines: string[] = []
  for (const command of commands) {
    const program = start(process.execPath, [command], { cwd: folder })
    running.push(program)
    if (command !== commands.at(-1)) lines.push(await program.line())
  }
  for (const program of running) {
    lines.push(...(await outputOf(program)))
    t.deepEqual(await program.exit, { code: 0, signal: null, stderr: '' })
  }
  const shown = code.split('\n').filter(line => line !== '' && !line.startsWith('$'))
  t.deepEqual(lines.map(withoutPids).sort(), shown.map(withoutPids).sort())
}

// --- lists and tables

test('docs/errors.md has a heading for every code, and for no other', t => {
  const headings = [...read('docs/errors.md').matchAll(/^### (\w*_\w+)$/gm)].map(([, code]) => code)
  t.deepEqual(headings.sort(), [...errorCodes].sort())
})

test('the documents name only codes that exist', t => {
  const known = new Set<string>(errorCodes)
  for (const document of documents)
    for (const [code] of read(document).matchAll(/ERR_PASSFD_[A-Z_]*[A-Z]/g))
      t.true(known.has(code), `${code} in ${document}`)
})

/** The tables of a document, in its order, and what they are of. */
const OPTION_TABLES = {
  'README.md': [
    ['src/channel/options.ts', 'ChannelOptions'],
    ['src/channel/options.ts', 'ListenOptions'],
    ['src/channel/channel.ts', 'RequestOptions'],
    ['src/channel/handlers.ts', 'ServeOptions']
  ],
  'docs/prefork.md': [
    ['src/prefork/options.ts', 'SupervisorOptions'],
    ['src/prefork/worker/join.ts', 'JoinOptions'],
    ['src/prefork/launch/restart.ts', 'RestartOptions']
  ],
  'docs/takeover.md': [
    ['src/takeover/options.ts', 'TakeOverOptions'],
    ['src/prefork/options.ts', 'SupervisorTakeover']
  ]
} as const
const SUPERVISED = { entry: 'worker.js', listeners: { http: { port: 0 } } }

test('the option tables are those of the sources', t => {
  const used: Record<string, Record<string, unknown>> = {
    'README.md': { ...channelLimits({}), ...serverLimits({}, 1 << 20) },
    'docs/prefork.md': { ...settingsOf(SUPERVISED) },
    'docs/takeover.md': { ...takeOverSettings({ path: 'seat' }) }
  }
  for (const [document, interfaces] of Object.entries(OPTION_TABLES)) {
    const tables = [...read(document).matchAll(/^\| option .*\n\|[- |]+\n((?:\|.*\n)+)/gm)].map(([, rows]) => rows!)
    t.is(tables.length, interfaces.length)
    for (const [index, [file, name]] of interfaces.entries()) {
      const documented = [...tables[index]!.matchAll(/^\| `(\w+)` +\| (.*?) *\|/gm)].map(([, option, cell]) => ({
        option,
        fallback: leadingValue(cell!)
      }))
      t.deepEqual(documented, optionsOf(file, name))
      for (const { option, fallback } of documented)
        if (fallback !== undefined && option! in used[document]!)
          t.is(fallback, used[document]![option!] as number, option)
    }
  }
})

test('the README lists all that passfd exports', t => {
  const [table] = /^\| `import[\s\S]*?\n\n/m.exec(read('README.md'))!
  const listed = [...table.matchAll(/^\| (`.*?) *\|/gm)].flatMap(([, cell]) => [...cell!.matchAll(/`(\w+)`/g)])
  t.deepEqual(listed.map(([, name]) => name).sort(), Object.keys(passfd).sort())
})

test('links inside the repository lead somewhere', t => {
  for (const document of documents)
    for (const [, path = '', anchor] of read(document).matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)) {
      const target = path === '' ? document : join(dirname(document), path)
      t.true(existsSync(join(root, target)), `${target} in ${document}`)
      if (anchor !== undefined) t.true(anchorsOf(target).includes(anchor), `${target}#${anchor} in ${document}`)
    }
})

// --- the protocol

test("docs/protocol.md's example is what a passfd channel takes and says", async t => {
  const [block] = blocksOf('docs/protocol.md').filter(({ language }) => language === 'hex')
  const frames = block!.code
    .split(/^(?=[→←])/m)
    .map(text => ({ fromPeer: text.startsWith('→'), carries: text.includes('+1'), bytes: hexOf(text) }))
  const [channel, other] = passfd.pair<{ do: string; file: passfd.Descriptor }>()
  channel.serve(({ value: { file } }) => ({ size: 5, copy: file }))

  const fd = moveOut(other, 'the test')
  const wire = new SocketWire(fd)
  const file = passfd.Descriptor.openSync('/etc/hostname')
  let said = Buffer.alloc(0)
  let carried = 0
  let over = false
  wire.start({
    onReadable(length, fds, first, count) {
      said = Buffer.concat([said, wire.area.subarray(wire.headroom, wire.headroom + Math.max(0, length))])
      carried += count
      wire.discard([...fds.subarray(first, first + count)], undefined)
      over ||= length <= 0
    },
    onWritable() {}
  })
  let expected = Buffer.alloc(0)
  try {
    for (const { fromPeer, carries, bytes } of frames)
      if (fromPeer) {
        await until(() => said.length >= expected.length, 'the frames before')
        native.send(fd, bytes, 0, bytes.length, Int32Array.of(file.borrow()), 0, carries ? 1 : 0)
      } else expected = Buffer.concat([expected, bytes])
    await until(() => said.length >= expected.length, 'the last frame')
    native.shutdown(fd, 1)
    await until(() => over, 'the end of file')
    const ofThatVersion = said.toString('latin1').replace(`passfd/${passfd.version}`, 'passfd/0.1.0')
    t.is(Buffer.from(ofThatVersion, 'latin1').toString('hex'), expected.toString('hex'))
    t.is(carried, frames.filter(({ fromPeer, carries }) => !fromPeer && carries).length)
    t.is(await channel.closed, undefined)
  } finally {
    channel.destroy()
    file.close()
    wire.end()
  }
})

// --- reading documents

function read(document: string): string {
  return readFileSync(join(root, document), 'utf8')
}

function blocksOf(document: string): Block[] {
  const text = read(document)
  return [...text.matchAll(/^```(\S*) ?(.*)\n([\s\S]*?)^```$/gm)].map(({ 1: language, 2: info, 3: code, index }) => ({
    language: language!,
    info: info!,
    code: code!,
    line: text.slice(0, index).split('\n').length,
    name: /^\/\/ (\S+\.mjs)\n/.exec(code!)?.[1]
  }))
}

/** A folder in which `import 'passfd'` means this repository, bundled; package.test.ts imports it as it is published. */
function workspace(): string {
  const folder = temporaryPath('workspace')
  const passfd = join(folder, 'node_modules/passfd')
  mkdirSync(join(passfd, 'native/build'), { recursive: true })
  mkdirSync(join(passfd, 'build'))
  writeFileSync(join(passfd, 'package.json'), read('package.json').replaceAll('"./dist/', '"./build/dist/'))
  symlinkSync(join(root, 'native/build/Release'), join(passfd, 'native/build/Release'))
  // No link: Node follows it to one path for the first door that a process imports, to another for the next
  execFileSync('cp', ['-r', join(root, 'build/dist'), join(passfd, 'build/dist')])
  for (const dependency of ['zod', 'bindings', 'file-uri-to-path'])
    symlinkSync(join(root, 'node_modules', dependency), join(folder, 'node_modules', dependency))
  return folder
}

function withoutPids(line: string): string {
  return line.replace(/process \d+/g, 'process N')
}

/** The bytes at the beginning of each line, behind its arrow and name. */
function hexOf(text: string): Buffer {
  const digits = text
    .split('\n')
    .map(line => /^(?:[→←] \w+)?\s*((?:[0-9a-f]{2} )*[0-9a-f]{2})(?= |$)/.exec(line)?.[1] ?? '')
  return Buffer.from(digits.join('').replaceAll(' ', ''), 'hex')
}

function anchorsOf(document: string): string[] {
  return [...read(document).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\w -]/g, '')
      .replaceAll(' ', '-')
  )
}

/** The members of an interface with the defaults that their comments name. */
function optionsOf(file: string, name: string) {
  const [, body = ''] = new RegExp(`^export interface ${name}\\b.*?\\{\n([\\s\\S]*?)^\\}`, 'm').exec(read(file)) ?? []
  return [...body.matchAll(/\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n {2}(\w+)\??[(:]/g)].map(([, comment, option]) => ({
    option,
    fallback: leadingValue(/Default (?:and maximum )?(.*)/.exec(comment!)?.[1] ?? '')
  }))
}

const UNITS = { bytes: 1, KiB: 1024, MiB: 1048576 }

/** '2 MiB', '10,000', '0o600', 'true' at the beginning of a text; otherwise undefined. */
function leadingValue(text: string): number | boolean | undefined {
  const [, octal, number, unit, truth] = /^(?:(0o[0-7]+)|(\d[\d,]*)(?: ([KM]iB))?|(true))/.exec(text) ?? []
  if (truth !== undefined) return true
  if (octal !== undefined) return Number(octal)
  return number === undefined
    ? undefined
    : Number(number.replaceAll(',', '')) * UNITS[(unit as 'KiB' | undefined) ?? 'bytes']
}
