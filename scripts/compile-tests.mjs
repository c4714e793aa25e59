/**
 * Compiles src/, test/, bench/, examples/ and attack/ into build/, from where the tests run, beside scripts/; nothing if that is up to date. Types are
 * not checked.
 * build/dist/ has bundles of what many test programs import, build/programs/ the examples as Node alone can run them.
 * Imports lead to what is compiled, but `import.meta.url` is the source's: what lies beside a source is found there.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import * as fs from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { filesIn } from '../test/helpers/files-in.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const build = join(root, 'build')
const state = join(build, 'state')
/** V8 would take that of another architecture, too, and crash. */
const CODE_CACHE = join('dist', `all.${process.arch}.cache`)
/** Of src/, what there is in build/dist/, too: as dist/ has it, bundled. */
const BUNDLED = [
  'index',
  'datagram/index',
  'memory/index',
  'prefork/index',
  'store/index',
  'stream/index',
  'systemd/index',
  'takeover/index',
  'codec/codec',
  'codec/frame',
  'descriptor/descriptor',
  'os/bind-spec',
  'os/native',
  'os/socket-name',
  'prefork/launch/launch',
  'prefork/listen/open-listener',
  'prefork/worker/program',
  'serving/server-intake',
  'systemd/notify-socket',
  'takeover/apply',
  'takeover/owner',
  'takeover/pipes'
]

/** Two runs at once are harmless: each file is replaced in one step, and by the same. */
export async function compileTests() {
  const sources = ['src', 'test', 'bench', 'examples', 'attack', 'scripts']
    .flatMap(folder => filesIn(join(root, folder)).map(name => join(folder, name)))
    .filter(name => !name.startsWith(`test${sep}runners${sep}`) && !name.includes(`node_modules${sep}`))
  const compiled = sources.filter(name => /\.c?ts$/.test(name))
  const imported = sources.filter(name => /\.m?js$/.test(name))
  const now = stateOf([...compiled, ...imported])
  if (fs.existsSync(state) && fs.readFileSync(state, 'utf8') === now) return
  if (!imported.includes(join('src', 'codec', 'msgpackr', 'pack.js')))
    throw new Error('nothing is built: npm run build')
  // As deep as build/: the source maps name sources by relative paths
  const fresh = join(root, `build-${randomUUID()}`)
  try {
    compile(fresh)
    const esbuild = await import('esbuild')
    for (const name of filesIn(fresh)) if (name.endsWith('.js')) await nameSource(fresh, name, esbuild.transform)
    await bundle(fresh, esbuild)
    await runnable(fresh, esbuild)
    fs.copyFileSync(join(fresh, 'src/preload.cjs'), join(fresh, 'dist/preload.cjs'))
    await esbuild.stop()
    for (const name of imported) {
      fs.mkdirSync(dirname(join(fresh, name)), { recursive: true })
      fs.symlinkSync(relative(join(build, dirname(name)), join(root, name)), join(fresh, name))
    }
    fs.writeFileSync(join(fresh, 'state'), now)
    const names = filesIn(fresh)
    const gone = filesIn(build).filter(name => !names.includes(name))
    fs.rmSync(join(build, CODE_CACHE), { force: true }) // V8 would take it for that of another file of the same length
    // Whoever reads `state` finds all the rest
    for (const name of names.filter(name => name !== 'state')) move(name, fresh)
    for (const name of gone) fs.rmSync(join(build, name), { force: true })
    writeCodeCache()
    move('state', fresh)
  } finally {
    fs.rmSync(fresh, { recursive: true, force: true })
  }
}

/** Of all that the result depends on. */
function stateOf(sources) {
  const hash = createHash('sha256')
  for (const name of [
    ...sources,
    'tsconfig.json',
    'tsconfig.test.json',
    'package-lock.json',
    'scripts/compile-tests.mjs'
  ])
    hash
      .update(`${name}\0`)
      .update(fs.readFileSync(join(root, name)))
      .update('\0')
  return hash.digest('hex')
}

function compile(folder) {
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const { LD_PRELOAD: _, ...env } = process.env // a sanitizer is for the tests
  execFileSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.test.json'), '--outDir', folder], {
    stdio: ['ignore', 2, 2],
    env
  })
}

async function nameSource(folder, name, transform) {
  const path = join(folder, name)
  const code = fs.readFileSync(path, 'utf8')
  if (!code.includes('import.meta.url')) return
  const source = relative(dirname(join(build, name)), join(root, name.replace(/\.js$/, '.ts')))
  const map = fs.readFileSync(`${path}.map`, 'base64')
  const result = await transform(`${code}\n//# sourceMappingURL=data:application/json;base64,${map}`, {
    banner: `const __source_url = new URL('${source}', import.meta.url).href`,
    define: { 'import.meta.url': '__source_url' },
    sourcemap: 'external',
    sourcesContent: false,
    sourcefile: name.split(sep).at(-1)
  })
  fs.writeFileSync(path, `${result.code}//# sourceMappingURL=${name.split(sep).at(-1)}.map\n`)
  fs.writeFileSync(`${path}.map`, result.map)
}

/**
 * For programs that tests start by the dozen: all is one file, which is loaded in half the time of many, and the doors only name what they
 * have of it. It is a script, as V8 takes what it has compiled before of scripts alone.
 */
async function bundle(folder, esbuild) {
  const options = {
    absWorkingDir: root,
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20',
    legalComments: 'none',
    logLevel: 'warning'
  }
  const { metafile } = await esbuild.build({
    ...options,
    entryPoints: BUNDLED.map(name => join(root, 'src', `${name}.ts`)),
    outdir: folder,
    write: false,
    metafile: true
  })
  const doors = Object.values(metafile.outputs).map(({ entryPoint, exports }) => {
    const door = relative(join(root, 'src'), join(root, entryPoint)).replace(/\.ts$/, '')
    return { door, names: exports.map(name => ({ name, unique: `${door.replace(/\W/g, '_')}_${name}` })) }
  })
  const listed = (names, from, to) => names.map(name => `${name[from]} as ${name[to]}`).join()
  await esbuild.build({
    ...options,
    stdin: {
      contents: doors
        .map(({ door, names }) => `export {${listed(names, 'name', 'unique')}} from './${door}.ts'`)
        .join('\n'),
      resolveDir: join(root, 'src'),
      loader: 'ts'
    },
    outfile: join(folder, 'dist/all.cjs'),
    format: 'cjs',
    define: { 'import.meta.url': '__url' },
    keepNames: true,
    // What is half as long is parsed in half the time
    minify: true,
    lineLimit: 140, // Node prints the line of an error
    sourcemap: 'linked'
  })
  const names = doors.flatMap(door => door.names.map(({ unique }) => unique))
  fs.writeFileSync(join(folder, 'dist/all.js'), `${LOADER}export const {${names}} = module.exports\n`)
  // For programs that need nothing else
  await esbuild.build({
    ...options,
    entryPoints: [join(root, 'src/os/native.ts')],
    outfile: join(folder, 'dist/native-alone.js'),
    keepNames: true
  })
  for (const { door, names } of doors) {
    const path = join(folder, 'dist', `${door}.js`)
    fs.mkdirSync(dirname(path), { recursive: true })
    const all = relative(dirname(path), join(folder, 'dist/all.js'))
    fs.writeFileSync(path, `export {${listed(names, 'unique', 'name')}} from './${all}'\n`)
  }
}

/** Runs all.cjs, with what V8 has of it in all.<architecture>.cache if that is of this version of Node. */
const LOADER = `import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'
import vm from 'node:vm'
const { url } = import.meta
const filename = fileURLToPath(new URL('all.cjs', url))
let cachedData
try {
  cachedData = readFileSync(fileURLToPath(new URL(\`all.\${process.arch}.cache\`, url)))
} catch {}
export const script = new vm.Script(\`(function (exports, require, module, __url) {\${readFileSync(filename, 'latin1')}
})\`, { filename, cachedData, importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER })
const module = { exports: {} }
script.runInThisContext()(module.exports, createRequire(url), module, new URL('all.cjs', url).href)
`

/**
 * Of what is compiled when it is loaded, and when a message is sent. It names the file that it is of, so it is made in build/. Without a shim
 * for this process there is none.
 */
function writeCodeCache() {
  const { LD_PRELOAD: _, PASSFD_SHIM: __, NODE_OPTIONS: ___, ...env } = process.env
  const dist = pathToFileURL(join(build, 'dist'))
  const path = join(build, 'dist', `${randomUUID()}.cache`)
  const source = `import { writeFileSync } from 'node:fs'
    import { script } from '${dist}/all.js'
    import { connect, pair } from '${dist}/index.js'
    const [channel, end] = pair()
    const other = await connect(end)
    other.serve(({ value }) => value)
    await channel.request('hello')
    await channel.close()
    writeFileSync(${JSON.stringify(path)}, script.createCachedData())`
  const { status } = spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    stdio: 'ignore',
    env,
    timeout: 60_000
  })
  if (status === 0) fs.renameSync(path, join(build, CODE_CACHE))
  else fs.rmSync(path, { force: true })
}

/** The examples: they import the bundles, and start each other without TypeScript. */
async function runnable(folder, esbuild) {
  await esbuild.build({
    entryPoints: filesIn(join(root, 'examples'))
      .filter(name => name.endsWith('.ts'))
      .map(name => join(root, 'examples', name)),
    outdir: join(folder, 'programs'),
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'linked',
    logLevel: 'warning',
    plugins: [
      {
        name: 'examples',
        setup(build) {
          build.onResolve({ filter: /^passfd(\/|$)/ }, ({ path }) => ({
            path: `../dist${path.slice('passfd'.length)}/index.js`,
            external: true
          }))
          build.onLoad({ filter: /\.ts$/ }, ({ path }) => ({
            contents: fs.readFileSync(path, 'utf8').replace(/\.ts(?=['`], import\.meta\.url)/g, '.js'),
            loader: 'ts'
          }))
        }
      }
    ]
  })
}

function move(name, from) {
  const [old, path] = [join(build, name), join(from, name)]
  if (fs.existsSync(old) && fs.readFileSync(old).equals(fs.readFileSync(path))) return
  fs.mkdirSync(dirname(old), { recursive: true })
  fs.renameSync(path, old)
}

if (process.argv[1] !== undefined && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  await compileTests()
