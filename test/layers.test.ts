/** What may stand on what in src/ and native/: docs/architecture.md has the picture. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import { test } from './helpers/test.ts'

/** The wings, lowest first: a file imports from its own wing and from those before it, types included. */
const WINGS = [
  'base',
  'os',
  'descriptor',
  'connection',
  'codec',
  'channel',
  'stream',
  'datagram',
  'memory',
  'serving',
  'systemd',
  'takeover',
  'store',
  'prefork',
  'cli'
]
/** The rooms of prefork, lowest first. */
const PREFORK = ['control', 'launch', 'balance', 'options', 'listen', 'supervisor', 'worker', 'index']
/** What a program imports is a door: nothing else of the wing is public. */
const DOORS: Record<string, string> = {
  '.': 'index',
  './stream': 'stream/index',
  './systemd': 'systemd/index',
  './takeover': 'takeover/index',
  './store': 'store/index',
  './datagram': 'datagram/index',
  './memory': 'memory/index',
  './prefork': 'prefork/index'
}
/** The command is a user of passfd: it imports the doors, and these of what lies behind them. */
const COMMAND_USES: Record<string, string[]> = {
  'base/errors': ['cli/serve/config', 'cli/store/service'],
  'base/known-options': ['cli/serve/config', 'cli/store/options'],
  'connection/connection': ['cli/shell/values'],
  'os/native': ['cli/serve/serve'],
  'os/orphans': ['cli/store/run'],
  'os/process-stat': ['cli/shell/held', 'cli/shell/holders', 'cli/shell/network'],
  'os/socket-name': ['cli/serve/metrics'],
  'os/unit': ['cli/store/service'],
  'os/unix-sockets': ['cli/shell/inspect', 'cli/shell/network'],
  'prefork/launch/launch': ['cli/serve/supervisor-options'],
  'prefork/launch/upgrade': ['cli/store/daemon']
}
/** The packages that are bundled into the command: scripts/build-cli.mjs. */
const COMMAND_PACKAGES = ['ansi-escapes', 'chokidar', 'cli-truncate', 'commander', 'picocolors', 'string-width']
/** Wings that a wing leaves alone although they stand before it. */
const APART: Record<string, string[]> = {
  stream: ['channel'],
  datagram: ['channel', 'stream'],
  memory: ['channel', 'stream', 'datagram'],
  systemd: ['channel', 'stream', 'memory'],
  store: ['stream', 'datagram', 'memory', 'serving', 'systemd'],
  prefork: ['store']
}
/** These know no socket: the state machine and its parts can be tested without one. */
const NO_SOCKETS = [
  'channel/session',
  'channel/session-core',
  'channel/sending',
  'channel/receiving',
  'channel/custody',
  'channel/transport',
  'channel/parcel',
  'channel/parcels-under-way',
  'channel/outgoing-bytes',
  'channel/segment',
  'channel/arriving-descriptors',
  'codec/codec',
  'codec/frame',
  'channel/credit',
  'channel/credit-queue',
  'channel/own-requests',
  'channel/peer-requests'
]
/** The one import that may close a circle, of a type alone: a Message names its Channel, and all that a Channel is made of knows Messages. */
const NAMES_OWNER = { from: 'channel/message', of: 'channel/channel' }
/** The packages that files import, and who may. */
const PACKAGES: Record<string, string[]> = {}
/** What scripts/msgpackr.mjs makes of msgpackr, and who may import it. */
const CHANGED = {
  of: 'codec/msgpackr/pack.js',
  from: ['codec', 'extensions', 'pack', 'packers', 'plain', 'record-table', 'records'].map(name => `codec/${name}`)
}

interface Import {
  from: string
  of: string
  typesOnly: boolean
}

const folder = fileURLToPath(new URL('../src/', import.meta.url))
const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts') && !name.endsWith('.d.ts'))
  .map(name => name.slice(0, -3))
const imports = files.flatMap(importsOf)

function importsOf(from: string): Import[] {
  const source = readFileSync(`${folder}${from}.ts`, 'utf8')
  const statements = source.matchAll(/^(?:import|export)\s+(type\s+)?([^'"();]*?)\s+from\s+['"]([^'"]+)['"]/gm)
  return [...statements].map(([, type, names = '', specifier = '']) => {
    const listed = /^\{([^}]*)\}$/.exec(names.trim())?.[1]?.split(',') ?? ['*']
    const values = listed.filter(name => name.trim() !== '' && !name.trim().startsWith('type '))
    return {
      from,
      of: resolve(from, specifier),
      typesOnly: type !== undefined || values.length === 0
    }
  })
}

/** The name of the file that `from` means by a relative specifier; a package's is itself. */
function resolve(from: string, specifier: string): string {
  return /^\.\.?\//.test(specifier) ? join(dirname(from), specifier).replace(/\.ts$/, '') : specifier
}

/** src/index.ts is the door of the channel. */
function wingOf(name: string): string {
  return name === 'index' ? 'channel' : name.split('/')[0]!
}

const own = imports.filter(({ of }) => files.includes(of))

test('every file is in a wing, and every wing has files', t => {
  t.deepEqual([...new Set(files.map(wingOf))].sort(), WINGS.toSorted())
})

test('imports are read: as many as there are lines of them', t => {
  for (const name of files) {
    const source = readFileSync(`${folder}${name}.ts`, 'utf8')
    const lines = source.match(/^(import|export) .*? from '|^\} from '|^import '/gm) ?? []
    t.is(importsOf(name).length, lines.length, name)
  }
  t.true(own.some(({ from, of, typesOnly }) => from === 'codec/codec' && of === 'codec/frame' && !typesOnly))
  t.true(own.some(({ from, of, typesOnly }) => from === 'channel/message' && of === 'channel/channel' && typesOnly))
})

test('relative imports are understood', t => {
  t.is(resolve('codec/codec', './frame.ts'), 'codec/frame')
  t.is(resolve('prefork/worker/join', '../control/control.ts'), 'prefork/control/control')
  t.is(resolve('prefork/worker/join', '../../base/errors.ts'), 'base/errors')
  t.is(resolve('index', './channel/channel.ts'), 'channel/channel')
  t.is(resolve('codec/packers', './msgpackr/pack.js'), 'codec/msgpackr/pack.js')
  t.is(resolve('base/errors', 'node:util'), 'node:util')
  t.is(wingOf('prefork/worker/join'), 'prefork')
})

test('no arrow points up: a wing knows those before it only', t => {
  for (const { from, of } of own)
    t.true(WINGS.indexOf(wingOf(of)) <= WINGS.indexOf(wingOf(from)), `${from} imports ${of}`)
})

test('wings that have nothing to do with each other leave each other alone', t => {
  for (const { from, of } of own) if (APART[wingOf(from)]?.includes(wingOf(of))) t.fail(`${from} imports ${of}`)
  t.pass()
})

test('what stands on the channel enters it by its door or its surface, and knows nothing of its session', t => {
  const inner = [
    'inbox',
    'handlers',
    'returned',
    'session',
    'session-core',
    'sending',
    'receiving',
    'custody',
    'parcel',
    'parcels-under-way',
    'outgoing-bytes',
    'segment',
    'arriving-descriptors',
    'transport',
    'wire',
    'credit',
    'credit-queue',
    'own-requests',
    'peer-requests',
    'write-scheduler'
  ]
  for (const { from, of } of own)
    if (wingOf(from) !== 'channel' && inner.includes(of.replace('channel/', ''))) t.fail(`${from} imports ${of}`)
  t.pass()
})

test('the command imports what programs import, and nothing imports the command', t => {
  const doors = Object.values(DOORS)
  for (const { from, of } of own) {
    if (wingOf(from) !== 'cli') t.not(wingOf(of), 'cli', `${from} imports ${of}`)
    else if (wingOf(of) !== 'cli')
      t.true(doors.includes(of) || COMMAND_USES[of]?.includes(from), `${from} imports ${of}`)
  }
})

test('the rooms of prefork: no arrow up, and its two roles never meet', t => {
  const roomOf = (name: string): number => PREFORK.indexOf(name.split('/')[1]!)
  for (const { from, of } of own.filter(one => wingOf(one.from) === 'prefork' && wingOf(one.of) === 'prefork')) {
    t.true(roomOf(from) >= 0 && roomOf(of) <= roomOf(from), `${from} imports ${of}`)
    t.false(from.startsWith('prefork/worker/') && of.startsWith('prefork/supervisor/'), `${from} imports ${of}`)
  }
})

test('there is no circle, types included', t => {
  const done = new Set<string>()
  const visit = (name: string, path: readonly string[]): void => {
    const at = path.indexOf(name)
    if (at >= 0) {
      t.fail([...path.slice(at), name].join(' → '))
      return
    }
    if (done.has(name)) return
    for (const { from, of } of own)
      if (from === name && !(from === NAMES_OWNER.from && of === NAMES_OWNER.of)) visit(of, [...path, name])
    done.add(name)
  }
  const excepted = own.filter(({ from, of }) => from === NAMES_OWNER.from && of === NAMES_OWNER.of)
  t.deepEqual(excepted, [{ ...NAMES_OWNER, typesOnly: true }])
  for (const name of files) visit(name, [])
  t.pass()
})

test('the state machine knows no socket', t => {
  for (const { from, of } of own) if (NO_SOCKETS.includes(from) && wingOf(of) === 'os') t.fail(`${from} imports ${of}`)
  for (const name of NO_SOCKETS) t.true(files.includes(name), name)
})

test('package.json exports the doors, and nothing else', t => {
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  const { exports } = manifest
  delete exports['./package.json']
  t.deepEqual(
    exports,
    Object.fromEntries(
      Object.entries(DOORS).map(([name, door]) => [
        name,
        { types: `./dist/${door}.d.ts`, default: `./dist/${door}.js` }
      ])
    )
  )
  for (const door of Object.values(DOORS)) t.true(files.includes(door), door)
  // For what does not read `exports`: TypeScript's moduleResolution node10
  const { main, types, typesVersions } = manifest
  t.deepEqual({ main, types }, { main: './dist/index.js', types: './dist/index.d.ts' })
  const others = Object.entries(DOORS).filter(([name]) => name !== '.')
  t.deepEqual(typesVersions, {
    '*': Object.fromEntries(others.map(([name, door]) => [name.slice(2), [`./dist/${door}.d.ts`]]))
  })
})

test('packages are imported by one file each, and all are dependencies', t => {
  const { dependencies } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  const outside = imports.filter(({ of }) => !files.includes(of) && !of.startsWith('node:') && of !== CHANGED.of)
  const foreign = outside.filter(({ from }) => wingOf(from) !== 'cli')
  for (const { from, of, typesOnly } of foreign) {
    t.true(of in dependencies, `${from} imports ${of}`)
    if (!typesOnly || of in PACKAGES) t.true(PACKAGES[of]?.includes(from) ?? false, `${from} imports ${of}`)
  }
  // A bundler would follow an import of it: src/os/load.ts
  const required = /createRequire\(ownFile!\)\('(\w+)'\)/.exec(
    readFileSync(new URL('../src/os/load.ts', import.meta.url), 'utf8')
  )
  t.deepEqual([...new Set([required![1]!, ...foreign.map(({ of }) => of)])].sort(), Object.keys(dependencies).sort())
  t.deepEqual([...new Set(imports.filter(({ of }) => of === CHANGED.of).map(({ from }) => from))].sort(), CHANGED.from)
})

test('the packages of the command are bundled, so users do not install them', t => {
  const { devDependencies } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  const bundled = imports.filter(
    ({ from, of }) => wingOf(from) === 'cli' && !/^(node:|\.)/.test(of) && !files.includes(of)
  )
  t.deepEqual([...new Set(bundled.map(({ of }) => of))].sort(), COMMAND_PACKAGES)
  for (const name of COMMAND_PACKAGES) t.true(name in devDependencies, name)
})

test('a package that is imported only when it is asked for is an optional peer', t => {
  const { peerDependencies, peerDependenciesMeta } = JSON.parse(
    readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  )
  // By createRequire, so that bundlers leave it
  const found = files.flatMap(from => {
    const source = readFileSync(`${folder}${from}.ts`, 'utf8')
    const names = source.matchAll(/(?:await import|createRequire\(ownFile \?\? process\.execPath\))\('([^']*)'\)/g)
    return [...names].map(([, of]) => [from, of!])
  })
  const packages = found.filter(([, of]) => !/^(node:|\.)/.test(of!))
  t.deepEqual(packages, [['prefork/supervisor/metrics', 'prom-client']])
  for (const [, of] of packages) t.true(of! in peerDependencies && peerDependenciesMeta[of!].optional)
})

test('the system calls are made by plain C without a header of Node', t => {
  const waist = fileURLToPath(new URL('../native/waist/', import.meta.url))
  const names = readdirSync(waist)
  t.true(names.includes('os.h'))
  for (const name of names) {
    const includes = readFileSync(`${waist}${name}`, 'utf8').match(/#include .*/g) ?? []
    for (const line of includes) t.notRegex(line, /node|uv\.h|glue/, `${name}: ${line}`)
  }
})

test('the glue enters the waist by its headers', t => {
  const glue = fileURLToPath(new URL('../native/glue/', import.meta.url))
  const headers = readdirSync(glue).filter(name => name.endsWith('.h'))
  const doors = ['os', 'held', 'closer'].map(name => `../waist/${name}.h`)
  for (const name of readdirSync(glue))
    for (const [, path] of readFileSync(`${glue}${name}`, 'utf8').matchAll(/#include "([^"]*)"/g))
      t.true(headers.includes(path!) || doors.includes(path!), `${name}: ${path}`)
})

test('there is no circle in native: a file and its header are one module', t => {
  for (const folder of ['waist', 'glue']) {
    const path = fileURLToPath(new URL(`../native/${folder}/`, import.meta.url))
    const names = readdirSync(path).filter(name => /\.[ch]$/.test(name))
    const included = new Map<string, Set<string>>()
    for (const name of names) {
      const module = name.slice(0, -2)
      const found = included.get(module) ?? new Set()
      for (const [, of] of readFileSync(path + name, 'utf8').matchAll(/#include "(\w+)\.h"/g))
        if (of !== module) found.add(of!)
      included.set(module, found)
    }
    const visit = (module: string, above: readonly string[]): void => {
      if (above.includes(module)) t.fail([...above, module].join(' → '))
      else for (const next of included.get(module) ?? []) visit(next, [...above, module])
    }
    for (const module of included.keys()) visit(module, [])
    t.true(included.size > 5)
  }
})
