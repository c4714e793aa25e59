import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path/posix'
import { fileURLToPath } from 'node:url'
import { test } from './helpers/test.ts'

/**
 * The order of the layers, lowest first: a file may import what stands above it in this list, and nothing of its own line.
 * Names are paths within src/: 'prefork/join' is src/prefork/worker/join.ts.
 */
const LAYERS = [
  ['version'],
  ['copy'],
  ['errors', 'limits', 'brand', 'uncloneable', 'share', 'promises', 'credit', 'slab', 'id-table', 'room', 'timers'],
  ['load'],
  ['native', 'frame', 'key-chains', 'schema', 'signals', 'async-context', 'refusal', 'lost-bytes', 'bytes'],
  ['requests', 'incoming', 'end-signals', 'encodable'],
  ['loop', 'context-duplex'],
  ['leak', 'peer', 'wire', 'poll-stream', 'close-file', 'raw-socket'],
  ['convert'],
  ['known-options', 'account'],
  ['address', 'options', 'memfd', 'open-file'],
  ['bind', 'hello', 'stream-options'],
  ['descriptor', 'inject', 'port-group'],
  ['take-stream', 'head', 'shared-memory', 'loan'],
  ['connection', 'memory-pool', 'pool-reader'],
  ['memory'],
  ['msgpack', 'transport', 'admission', 'outgoing', 'given'],
  ['outbox', 'stream-server'],
  ['descriptor-stream', 'packet-socket'],
  ['stream-open'],
  ['stream'],
  ['flat'],
  ['codec'],
  ['fault', 'waiting', 'writers', 'reply'],
  ['session'],
  ['message'],
  ['channel'],
  ['connect'],
  ['server'],
  ['index'],
  ['datagram-address', 'datagram-sender'],
  ['datagram-receive', 'datagram-options'],
  ['datagram-outbox'],
  ['datagram-send'],
  ['datagram-message'],
  ['datagram-socket', 'datagram-attach', 'unix-dgram'],
  ['datagram'],
  ['prefork/restart', 'prefork/exit-status', 'prefork/notify', 'prefork/launch', 'prefork/procfs', 'prefork/metrics'],
  ['prefork/remainder', 'prefork/orphans', 'prefork/last-accept'],
  ['prefork/lanes', 'prefork/served-connection'],
  ['prefork/serving'],
  ['prefork/served', 'prefork/receiver'],
  ['prefork/worker-info', 'prefork/control'],
  ['prefork/options', 'prefork/bound', 'prefork/heads', 'prefork/worker'],
  ['prefork/worker-process', 'prefork/join'],
  ['prefork/grants'],
  ['prefork/shared-listener', 'prefork/per-worker-listener', 'prefork/dispatched-listener'],
  ['prefork/listener'],
  ['prefork/admin', 'prefork/signals'],
  ['prefork/supervisor'],
  ['prefork/index']
]

/** Files that the arrows of the picture keep apart although the order would allow more. */
const ONLY: Record<string, string[]> = {
  copy: ['version'],
  frame: ['errors', 'limits'],
  load: ['errors', 'version'],
  native: ['errors', 'load'],
  loop: ['errors', 'limits', 'native'],
  wire: ['loop', 'native'],
  transport: ['descriptor', 'errors', 'frame', 'limits', 'lost-bytes', 'room', 'slab'],
  credit: [],
  slab: [],
  share: [],
  promises: []
}
/** These know no socket: the state machine and its parts can be tested without one. */
const NO_SOCKETS = ['session', 'transport', 'codec', 'frame', 'credit', 'waiting', 'requests', 'incoming']
/** The packages that files import, and who may. */
const PACKAGES: Record<string, string[]> = {}
/** What scripts/msgpackr.mjs makes of msgpackr, and who may import it. */
const CHANGED = { of: 'msgpackr/pack.js', from: 'msgpack' }

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

/** The folder of src/ that a file is in, '' for the core. */
function folderOf(name: string): string {
  return name.includes('/') ? name.slice(0, name.indexOf('/')) : ''
}

const rank = new Map(LAYERS.flatMap((names, index) => names.map(name => [name, index] as const)))
const own = imports.filter(({ of }) => files.includes(of))
const loaded = own.filter(({ typesOnly }) => !typesOnly)

test('every file has its layer, and every layer its files', t => {
  t.deepEqual([...rank.keys()].sort(), files.toSorted())
})

test('imports are read: as many as there are lines of them', t => {
  for (const name of files) {
    const source = readFileSync(`${folder}${name}.ts`, 'utf8')
    const lines = source.match(/^(import|export) .*? from '|^\} from '|^import '/gm) ?? []
    t.is(importsOf(name).length, lines.length, name)
  }
  t.true(loaded.some(({ from, of }) => from === 'codec' && of === 'frame'))
  t.true(own.some(({ from, of, typesOnly }) => from === 'convert' && of === 'descriptor' && typesOnly))
})

test('relative imports are understood from the core and from a folder', t => {
  t.is(resolve('codec', './frame.ts'), 'frame')
  t.is(resolve('prefork/join', './life/state.ts'), 'prefork/life/state')
  t.is(resolve('prefork/join', '../channel.ts'), 'channel')
  t.is(resolve('prefork/life/state', '../../errors.ts'), 'errors')
  t.is(resolve('index', './prefork/index.ts'), 'prefork/index')
  t.is(resolve('msgpack', './msgpackr/pack.js'), 'msgpackr/pack.js')
  t.is(resolve('native', 'bindings'), 'bindings')
  t.is(resolve('errors', 'node:util'), 'node:util')
  t.is(folderOf('prefork/life/state'), 'prefork')
  t.is(folderOf('codec'), '')
})

test('what stands on the core is a folder each: the core imports none of them, and none another, not even types', t => {
  for (const { from, of } of own)
    t.true(folderOf(of) === '' || folderOf(of) === folderOf(from), `${from} imports ${of}`)
})

test('imports point one way', t => {
  for (const { from, of } of loaded) t.true(rank.get(of)! < rank.get(from)!, `${from} imports ${of}`)
})

test('there is no cycle, types excepted', t => {
  // Each file is entered once: the paths through them are millions
  const clean = new Set<string>()
  const visit = (name: string, path: string[]): void => {
    if (path.includes(name)) {
      t.fail([...path, name].join(' → '))
      return
    }
    if (clean.has(name)) return
    for (const { from, of } of loaded) if (from === name) visit(of, [...path, name])
    clean.add(name)
  }
  for (const name of files) visit(name, [])
  t.pass()
})

test('layers that the picture keeps apart are apart', t => {
  for (const [name, allowed] of Object.entries(ONLY)) {
    for (const { from, of } of loaded) if (from === name) t.true(allowed.includes(of), `${from} imports ${of}`)
  }
  for (const { from, of } of loaded)
    if (NO_SOCKETS.includes(from))
      t.false(['native', 'loop', 'wire', 'convert', 'address'].includes(of), `${from} imports ${of}`)
})

test('packages are imported by one file each, and all are dependencies', t => {
  const { dependencies } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
  const foreign = imports.filter(({ of }) => !files.includes(of) && !of.startsWith('node:') && of !== CHANGED.of)
  for (const { from, of, typesOnly } of foreign) {
    t.true(of in dependencies, `${from} imports ${of}`)
    if (!typesOnly || of in PACKAGES) t.true(PACKAGES[of]?.includes(from) ?? false, `${from} imports ${of}`)
  }
  // A bundler would follow an import of it: src/os/load.ts
  const required = /createRequire\(import\.meta\.url\)\('(\w+)'\)/.exec(
    readFileSync(new URL('../src/os/load.ts', import.meta.url), 'utf8')
  )
  t.deepEqual([...new Set([required![1]!, ...foreign.map(({ of }) => of)])].sort(), Object.keys(dependencies).sort())
  t.deepEqual([...new Set(imports.filter(({ of }) => of === CHANGED.of).map(({ from }) => from))], [CHANGED.from])
})

test('a package that is imported only when it is asked for is an optional peer', t => {
  const { peerDependencies, peerDependenciesMeta } = JSON.parse(
    readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  )
  const found = files.flatMap(from =>
    [...readFileSync(`${folder}${from}.ts`, 'utf8').matchAll(/await import\('([^']*)'\)/g)].map(([, of]) => [from, of!])
  )
  const packages = found.filter(([, of]) => !of!.startsWith('node:'))
  t.deepEqual(packages, [['prefork/metrics', 'prom-client']])
  for (const [, of] of packages) t.true(of! in peerDependencies && peerDependenciesMeta[of!].optional)
})

test('the system calls are made by plain C without a header of Node', t => {
  const native = fileURLToPath(new URL('../native/', import.meta.url))
  for (const name of [
    'os.c',
    'os.h',
    'inet.c',
    'edge.c',
    'parent.c',
    'message.c',
    'memory.c',
    'terminal.c',
    'held.c',
    'held.h',
    'closer.c',
    'closer.h'
  ]) {
    const includes = readFileSync(`${native}${name}`, 'utf8').match(/#include .*/g) ?? []
    for (const line of includes) t.notRegex(line, /node|uv\.h|environment|watcher|argument/, `${name}: ${line}`)
  }
})
