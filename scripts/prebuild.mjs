/**
 * The binaries of the published package: prebuilds/<platform>-<arch>-<libc>/passfd.node.
 *   (no argument)  compiles all of them (scripts/targets.mjs) into .cache/prebuilds, in the toolchain of scripts/toolchain.mjs
 *   --pack         puts them where `npm pack` and `npm publish` take them, and takes `prepare`, which builds a clone, out of package.json, as npm asks
 *                  whoever installs a tarball to allow that script. Fails if one is missing or of other sources. With PASSFD_PACK=host it takes the
 *                  shim of this clone alone, for tests; that package is private, so npm does not publish it. It adds what follows from `repository`
 *   --clean        undoes `--pack`: src/os/load.ts looks in prebuilds/ first, so a stale copy would hide later builds
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { arch, argv, env, execPath, platform } from 'node:process'
import { homeOf } from './home.mjs'
import { gyp, path, sourcesHash, TARGETS } from './targets.mjs'
import { inToolchain, makeToolchain, TOOLCHAIN } from './toolchain.mjs'

const BUILT = path('.cache/prebuilds')
const HASH = join(BUILT, 'sources.sha256')
const PREPARE = '    "prepare": "npm run build",\n'
const PREPACK = '    "prepack": '
const PRIVATE = '  "private": true,\n'
const VERSION = '  "version": '

if (argv.includes('--pack')) pack()
else if (argv.includes('--clean')) {
  rmSync(path('prebuilds'), { recursive: true, force: true })
  rewriteManifest(text =>
    (text.includes(PREPARE) ? text : text.replace(PREPACK, PREPARE + PREPACK))
      .replace(PRIVATE, '')
      .replace(homeLines(text), '')
  )
} else compileAll()

function compileAll() {
  makeToolchain()
  rmSync(BUILT, { recursive: true, force: true })
  const source = join(TOOLCHAIN, 'src')
  rmSync(source, { recursive: true, force: true })
  for (const folder of ['waist', 'glue']) cpSync(path(`native/${folder}`), join(source, folder), { recursive: true })
  cpSync(headers(), join(source, 'include'), { recursive: true })
  const { sources, defines, cflags, ldflags } = gyp()
  for (const [name, { gcc, before, after }] of Object.entries(TARGETS)) {
    const own = inToolchain([gcc, '-print-file-name=include']).trim()
    const args = [
      ...['-shared', '-fPIC', ...before.map(one => one.replace('@GCC_INCLUDE@', own)), ...cflags],
      ...['-Iinclude', ...defines.map(define => `-D${define}`), ...sources, ...ldflags],
      ...['-Wl,-s,-z,relro,-z,now,-z,noexecstack', ...after, '-o', 'passfd.node']
    ]
    inToolchain([gcc, ...args])
    mkdirSync(join(BUILT, name), { recursive: true })
    copyFileSync(join(source, 'passfd.node'), join(BUILT, name, 'passfd.node'))
  }
  writeFileSync(HASH, sourcesHash())
}

/** Node's own, of Node-API and libuv. */
function headers() {
  const prefixes = [env.npm_config_nodedir, dirname(dirname(realpathSync(execPath)))].filter(Boolean)
  const found = prefixes
    .map(prefix => join(prefix, 'include', 'node'))
    .find(folder => existsSync(join(folder, 'node_api.h')))
  if (found === undefined) throw new Error(`no headers of Node in ${prefixes.join(', ')}: set npm_config_nodedir`)
  return found
}

function pack() {
  const isHost = env.PASSFD_PACK === 'host'
  if (env.PASSFD_PACK !== undefined && !isHost) fail(`PASSFD_PACK is ${env.PASSFD_PACK}; it can only be host`)
  rmSync(path('prebuilds'), { recursive: true, force: true })
  if (isHost) {
    const libc = process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc'
    const target = place(`${platform}-${arch}-${libc}`)
    copyFileSync(path('native/build/Release/passfd.node'), target)
    execFileSync('strip', ['--strip-unneeded', target])
  } else {
    const missing = Object.keys(TARGETS).filter(name => !existsSync(join(BUILT, name, 'passfd.node')))
    if (missing.length > 0) fail(`the binaries for ${missing.join(', ')} are missing`)
    if (readFileSync(HASH, 'utf8') !== sourcesHash()) fail('the binaries were built from other sources')
    for (const name of Object.keys(TARGETS)) copyFileSync(join(BUILT, name, 'passfd.node'), place(name))
  }
  rewriteManifest(text =>
    text.replace(PREPARE, '').replace(VERSION, (isHost ? PRIVATE : '') + homeLines(text) + VERSION)
  )
}

/** The lines of package.json that follow from its field `repository`. Those that are there already, as an earlier `--pack` left them, count as missing. */
function homeLines(text) {
  const { repository, ...manifest } = JSON.parse(text)
  const lines = given =>
    Object.entries(homeOf(given) ?? {})
      .map(([name, value]) => `  "${name}": ${JSON.stringify(value)},\n`)
      .join('')
  const all = lines({ repository })
  return all !== '' && text.includes(all + VERSION) ? all : lines({ repository, ...manifest })
}

function place(name) {
  const target = path(`prebuilds/${name}/passfd.node`)
  mkdirSync(dirname(target), { recursive: true })
  return target
}

function fail(what) {
  console.error(
    `${what}. Run "npm run build:prebuild" (it needs root and debootstrap), or set PASSFD_PACK=host for a package of this machine's binary alone.`
  )
  process.exit(1)
}

/** All else in package.json stays as it is, to the byte. */
function rewriteManifest(change) {
  const before = readFileSync(path('package.json'), 'utf8')
  const after = change(before)
  const { scripts, private: isPrivate } = JSON.parse(after)
  const isPacked = argv.includes('--pack')
  if ('prepare' in scripts === isPacked || (isPrivate === true) !== (isPacked && env.PASSFD_PACK === 'host'))
    throw new Error('package.json is written differently')
  if (after !== before) writeFileSync(path('package.json'), after)
}
