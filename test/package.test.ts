/** What `npm publish` would publish, installed and used as users do. */
import { execFile, execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { arch, platform } from 'node:process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { version } from '../src/base/version.ts'
import { isFull, isInCi } from './helpers/full.ts'
import { pack } from './helpers/pack.mjs'
import { test, testInCi } from './helpers/test.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const temporary = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'passfd-package-')))
process.on('exit', () => fs.rmSync(temporary, { recursive: true, force: true }))
const manifest = JSON.parse(fs.readFileSync(join(root, 'package.json'), 'utf8'))
/** A normal run packs the shim of this clone alone. */
const shims = isFull
  ? ['linux-arm64-glibc', 'linux-arm64-musl', 'linux-x64-glibc', 'linux-x64-musl']
  : [`${platform}-${arch}-glibc`]
const placeOf = (name: string): string => `prebuilds/${name}/passfd.node`
const shim = placeOf(`${platform}-${arch}-glibc`)
/** Node 20 needs this one, too. */
const GLIBC = 28
const SMALL = 150_000

function npm(args: string[], cwd: string, env = process.env): Promise<{ stdout: string; stderr: string }> {
  return run('npm', [...args, '--no-audit', '--no-fund', '--offline'], { cwd, env, maxBuffer: 1 << 24 })
}

/**
 * An empty folder with the tarball installed; what it depends on comes from here, as the registry may be far away. A full run has npm install it,
 * a normal one lays it out as npm does.
 */
async function install(name: string, tarball: string): Promise<string> {
  const folder = join(temporary, name)
  if (!isFull) {
    const path = join(folder, 'node_modules/passfd')
    fs.mkdirSync(path, { recursive: true })
    await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', path])
    for (const dependency of dependenciesOf(manifest)) {
      const link = join(folder, 'node_modules', dependency)
      fs.mkdirSync(join(link, '..'), { recursive: true })
      fs.symlinkSync(join(root, 'node_modules', dependency), link)
    }
    fs.writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, private: true }))
    return folder
  }
  const dependencies: Record<string, string> = { passfd: `file:${tarball}` }
  for (const dependency of dependenciesOf(manifest))
    dependencies[dependency] = `file:${join(root, 'node_modules', dependency)}`
  fs.mkdirSync(folder)
  fs.writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, private: true, dependencies }))
  const { stdout, stderr } = await npm(['install', '--install-links=false'], folder)
  if (/passfd/.test(stdout + stderr)) throw new Error(`npm install has something to say of it: ${stdout}${stderr}`)
  return folder
}

/** The packages that one depends on, and those that these do. */
function dependenciesOf({ dependencies = {} }: { dependencies?: Record<string, string> }): string[] {
  const found = Object.keys(dependencies).flatMap(name => [
    name,
    ...dependenciesOf(JSON.parse(fs.readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')))
  ])
  return [...new Set(found)]
}

/** Runs a program in a folder; gives what it prints. It must say nothing on stderr. */
async function program(folder: string, name: string, source: string, args: string[] = []): Promise<string> {
  fs.writeFileSync(join(folder, name), source)
  const { stdout, stderr } = await run(process.execPath, [...args, name], { cwd: folder })
  if (stderr !== '') throw new Error(stderr)
  return stdout.trim()
}

const USE = `
  const [left, end] = pair()
  connect(end).then(async right => {
    right.serve(({ value }) => value.file.kind)
    console.log(await left.request({ file: Descriptor.openSync('/etc/hostname') }), version)
    await Promise.all([left.close(), right.close()])
  })`
const USED = `file ${version}`
const ESM = `import { connect, Descriptor, pair, version } from 'passfd'${USE}`
const CJS = `const { connect, Descriptor, pair, version } = require('passfd')${USE}`

/** A copy of the folder in which it is installed. */
function installedAgain(name: string): string {
  const copy = join(temporary, name)
  execFileSync('cp', ['-a', '--link', folder, copy]) // cpSync() needs ten times as much
  for (const dependency of ['bindings', 'file-uri-to-path']) {
    fs.rmSync(join(copy, 'node_modules', dependency))
    fs.symlinkSync(join(root, 'node_modules', dependency), join(copy, 'node_modules', dependency))
  }
  return copy
}

// Without a test that looks at it nothing is packed
const packed = isInCi
  ? await pack(temporary, isFull)
  : { files: [], filename: '', tarball: '', size: 0, unpackedSize: 0 }
const folder = isInCi ? await install('consumer', packed.tarball) : ''
const installed = join(folder, 'node_modules/passfd')

test('src/base/version.ts and package.json agree', t => {
  t.is(version, manifest.version)
})

testInCi('the tarball has what is needed and nothing else', t => {
  const paths = packed.files.map(({ path }) => path)
  for (const path of [
    'package.json',
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
    'native/binding.gyp',
    'native/waist/os.c'
  ])
    t.true(paths.includes(path), path)
  const files = (folder: string): string[] => fs.readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
  for (const { default: door } of Object.values<{ default?: string }>(manifest.exports))
    if (door !== undefined) t.true(paths.includes(door.slice(2)), door)
  for (const name of files('native').filter(name => !name.startsWith('build') && /\.(c|h|gyp)$/.test(name)))
    t.true(paths.includes(`native/${name}`), name)
  for (const path of paths) t.regex(path, /^(dist|docs|native|prebuilds)\/|^[A-Z]+\.md$|^LICENSE$|^package\.json$/)
  t.deepEqual(paths.filter(path => path.endsWith('.node')).sort(), shims.map(placeOf))
  // Nothing of an earlier build, of the bench, or for debugging passfd itself
  const modules = files('src')
    .filter(name => /\.c?ts$/.test(name))
    .map(name => `dist/${name.replace(/\.c?ts$/, '')}`)
  const known = ['dist/codec/msgpackr/', 'dist/cli/', 'dist/wings/']
  for (const path of paths.filter(path => path.startsWith('dist/') && !known.some(one => path.startsWith(one))))
    t.true(modules.includes(path.replace(/(\.d)?\.c?[jt]s$/, '')), path)
  for (const path of paths) t.notRegex(path, /\.map$|\.svg$|bench/)
  t.true(packed.size < 700_000, `${packed.size} bytes`)
  t.true(packed.unpackedSize < 3_000_000, `${packed.unpackedSize} bytes`)
})

testInCi(
  'its doors export what their sources do, from one file for each wing, and stack traces name the functions',
  async t => {
    const doors = Object.entries<{ default?: string }>(manifest.exports).flatMap(([name, { default: door }]) =>
      door === undefined
        ? []
        : { name: `passfd${name.slice(1)}`, source: door.replace('./dist/', '').replace(/\.js$/, '') }
    )
    const look = `
    const names = {}
    for (const door of ${JSON.stringify(doors.map(({ name }) => name))}) names[door] = Object.keys(await import(door))
    const { Descriptor, pair } = await import('passfd')
    const [channel, end] = pair()
    end.close()
    let stack
    try { channel.send({ f: () => {} }) } catch (error) { stack = error.stack }
    await channel.close()
    console.log(JSON.stringify({ names, stack }))`
    const { names, stack } = JSON.parse(await program(folder, 'doors.mjs', look))
    for (const { name, source } of doors)
      t.deepEqual(names[name], Object.keys(await import(`../src/${source}.ts`)).sort(), name)
    t.regex(stack, /at Channel\.send \(.*\/dist\/wings\/channel\.js:\d+/)
    const wings = fs.readdirSync(join(root, 'src')).filter(name => !/\./.test(name) && name !== 'cli')
    for (const wing of wings) {
      const files = packed.files.filter(({ path }) => path.endsWith('.js') && path.startsWith(`dist/${wing}/`))
      for (const { path } of files.filter(({ path }) => !path.includes('/msgpackr/'))) {
        const isDoor = doors.some(({ source }) => path === `dist/${source}.js`)
        // All else that has a path of its own is a name for a part of a wing
        if (!isDoor) t.true(fs.statSync(join(installed, path)).size < 500, path)
      }
    }
  }
)

testInCi('it depends on two packages, neither of which runs anything when it is installed', t => {
  const published = JSON.parse(fs.readFileSync(join(installed, 'package.json'), 'utf8'))
  t.deepEqual(Object.keys(published.dependencies).sort(), ['@standard-schema/spec', 'bindings'])
  t.false('optionalDependencies' in published)
  for (const name of ['bindings', 'file-uri-to-path', '@standard-schema/spec']) {
    const { scripts = {}, gypfile } = JSON.parse(
      fs.readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')
    )
    for (const script of ['preinstall', 'install', 'postinstall']) t.false(script in scripts, `${name} ${script}`)
    t.is(gypfile, undefined)
  }
  // What npm makes of that
  if (!isFull) return
  const lock = fs.readFileSync(join(folder, 'package-lock.json'), 'utf8')
  t.notRegex(lock, /msgpackr|hasInstallScript/)
})

testInCi('the command is one small file with its packages and their licences, which runs as installed', async t => {
  t.deepEqual(
    packed.files
      .filter(({ path }) => path.startsWith('dist/cli/'))
      .map(({ path }) => path)
      .sort(),
    ['dist/cli/LICENSES.txt', 'dist/cli/passfd.mjs']
  )
  t.deepEqual(manifest.bin, { passfd: 'dist/cli/passfd.mjs' })
  const path = join(installed, manifest.bin.passfd)
  const code = fs.readFileSync(path)
  t.true(gzipSync(code).length <= 150_000)
  t.regex(code.toString(), /^#!\/usr\/bin\/env node\n/)
  // passfd itself is not in it, and nothing but Node and passfd is loaded
  for (const [, from] of code.toString().matchAll(/\bfrom ?"([^"]+)"/g)) t.regex(from!, /^node:|^\.\.\/[\w/-]+\.js$/)
  const licences = fs.readFileSync(join(path, '../LICENSES.txt'), 'utf8')
  for (const name of ['commander', 'picocolors']) t.regex(licences, new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\(`, 'm'))
  const { stdout } = await run(path, ['--version'], { cwd: folder })
  t.is(stdout, `${version}\n`)
})

testInCi('its codec is in the tarball as ES modules, with its licence, and no package of that name is imported', t => {
  const path = (name: string): string => join(installed, 'dist/codec/msgpackr', name)
  t.deepEqual(fs.readdirSync(path('')).sort(), ['LICENSE', 'pack.js', 'unpack.js'])
  const licence = fs.readFileSync(path('LICENSE'), 'utf8')
  t.is(licence, fs.readFileSync(join(root, 'node_modules/msgpackr/LICENSE'), 'utf8'))
  t.regex(licence, /MIT License\s+Copyright/)
  for (const name of ['pack.js', 'unpack.js'])
    t.true(
      fs.readFileSync(path(name), 'utf8').startsWith(`// msgpackr ${manifest.devDependencies.msgpackr}, changed by`)
    )
  for (const { path } of packed.files.filter(({ path }) => /\.(js|ts)$/.test(path))) {
    const source = fs.readFileSync(join(installed, path), 'utf8')
    t.notRegex(source, /(from|import\(|require\(|resolve\()\s*['"]msgpackr/, path)
    t.false(source.includes('compileFunction'), path)
  }
})

testInCi('the declarations are those of the doors: no internals, and nothing that leads nowhere', t => {
  const paths = packed.files.map(({ path }) => path)
  const declarations = paths.filter(path => path.endsWith('.d.ts'))
  for (const { types } of Object.values<{ types?: string }>(manifest.exports))
    if (types !== undefined) t.true(declarations.includes(types.slice(2)), types)
  for (const path of declarations) {
    const text = fs.readFileSync(join(installed, path), 'utf8')
    t.notRegex(text, /@internal|sourceMappingURL/, path)
    for (const [, from] of text.matchAll(/(?:from '|import\(")(\.[^'"]+)/g)) {
      t.true(from!.endsWith('.js'), `${path}: ${from}`)
      t.true(declarations.includes(join(path, '..', from!.replace(/\.js$/, '.d.ts'))), `${path}: ${from}`)
    }
  }
  const internals = [
    'os/loop',
    'codec/packers',
    'os/native',
    'codec/codec',
    'channel/transport',
    'channel/wire',
    'descriptor/leak',
    'base/package-copy',
    'prefork/control/control',
    'prefork/launch/launch'
  ]
  for (const name of internals) {
    t.true(fs.existsSync(join(root, `src/${name}.ts`)), name)
    t.false(declarations.includes(`dist/${name}.d.ts`), name)
  }
  for (const name of ['moveOutShared', 'restoreNumber', 'descriptorOf', 'SocketWire', 'interface Native'])
    t.false(
      declarations.some(path => fs.readFileSync(join(installed, path), 'utf8').includes(name)),
      name
    )
  t.false(packed.files.some(({ path }) => path.endsWith('.d.ts.map')))
})

testInCi('installing it runs nothing', t => {
  // npm runs node-gyp by itself where it finds a binding.gyp at the root
  t.false(packed.files.some(({ path }) => path === 'binding.gyp'))
  const { scripts, gypfile } = JSON.parse(fs.readFileSync(join(installed, 'package.json'), 'utf8'))
  // npm 11 asks about these four, of a tarball's prepare, too
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) t.false(name in scripts, name)
  t.is(gypfile, undefined)
})

testInCi('each shim is small, stripped, needs no newer glibc than Node 20, and no executable stack', async t => {
  for (const name of shims) {
    const path = join(installed, placeOf(name))
    const size = fs.statSync(path).size
    t.true(size < SMALL, `${name}: ${size}`)
    const { stdout } = await run('readelf', ['--dynamic', '--sections', '--segments', '--version-info', '--wide', path])
    t.notRegex(stdout, /\.debug|\.symtab|RPATH|RUNPATH/, name)
    t.regex(stdout, /GNU_STACK( +0x[0-9a-f]+){5} RW /, name)
    const needed = [...stdout.matchAll(/\(NEEDED\).*\[(.*?)\]/g)].map(([, name]) => name!)
    if (name.endsWith('musl')) t.deepEqual(needed, ['libc.so'])
    else
      t.deepEqual(
        [...needed, 'libpthread.so.0', 'libc.so.6'].filter(
          name => !/^(libpthread|libc|ld-linux.*)\.so\.\d$/.test(name)
        ),
        []
      )
    const versions = [...stdout.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor))
    t.is(versions.length > 0, name.endsWith('glibc'), name)
    // What this clone has built is for this machine alone
    if (isFull) t.true(Math.max(0, ...versions) <= GLIBC, `${name}: ${Math.max(...versions)}`)
  }
})

testInCi(
  'a package of this machine’s shim alone can not be published, and one without the others is not packed',
  async t => {
    const { private: isPrivate } = JSON.parse(fs.readFileSync(join(installed, 'package.json'), 'utf8'))
    t.is(isPrivate, isFull ? undefined : true)
    const copy = join(temporary, 'incomplete')
    fs.mkdirSync(copy)
    for (const name of ['scripts', 'native', 'package.json'])
      fs.cpSync(join(root, name), join(copy, name), { recursive: true, filter: from => !from.endsWith('/build') })
    const prebuild = (env: NodeJS.ProcessEnv = {}) =>
      run(process.execPath, ['scripts/prebuild.mjs', '--pack'], { cwd: copy, env: { PATH: process.env.PATH!, ...env } })
    await t.throwsAsync(prebuild(), {
      message: /the binaries for linux-x64-glibc, .* are missing\. Run "npm run build:prebuild"/
    })
    await t.throwsAsync(prebuild({ PASSFD_PACK: 'all' }), { message: /PASSFD_PACK is all; it can only be host/ })
    for (const name of ['linux-x64-glibc', 'linux-arm64-glibc', 'linux-x64-musl', 'linux-arm64-musl']) {
      fs.mkdirSync(join(copy, '.cache/prebuilds', name), { recursive: true })
      fs.writeFileSync(join(copy, '.cache/prebuilds', name, 'passfd.node'), '')
    }
    fs.writeFileSync(join(copy, '.cache/prebuilds/sources.sha256'), 'another')
    await t.throwsAsync(prebuild(), { message: /the binaries were built from other sources/ })
    t.is(fs.readFileSync(join(copy, 'package.json'), 'utf8'), fs.readFileSync(join(root, 'package.json'), 'utf8'))
  }
)

test('nothing is published before package.json has the field repository, from which two others follow', async t => {
  const copy = join(temporary, 'home')
  fs.mkdirSync(join(copy, 'native/build/Release'), { recursive: true })
  fs.cpSync(join(root, 'scripts'), join(copy, 'scripts'), { recursive: true })
  fs.copyFileSync(join(root, 'native/binding.gyp'), join(copy, 'native/binding.gyp'))
  fs.copyFileSync(join(root, 'native/build/Release/passfd.node'), join(copy, 'native/build/Release/passfd.node'))
  const node = (...args: string[]) =>
    run(process.execPath, args, { cwd: copy, env: { PATH: process.env.PATH!, PASSFD_PACK: 'host' } })
  const write = (repository: unknown): string => {
    const text = `${JSON.stringify({ ...manifest, repository }, null, 2)}\n`
    fs.writeFileSync(join(copy, 'package.json'), text)
    return text
  }
  t.is(manifest.scripts.prepublishOnly, 'node scripts/home.mjs')
  for (const [repository, says] of [
    [undefined, /is not filled in\. Set it to the URL/],
    ['to be filled in', /is "to be filled in", which is no URL/]
  ] as const) {
    write(repository)
    await t.throwsAsync(node('scripts/home.mjs'), { message: says })
  }
  for (const repository of [
    { type: 'git', url: 'git+https://forge.example/some/passfd.git' },
    'https://forge.example/some/passfd'
  ]) {
    const before = write(repository)
    await node('scripts/home.mjs')
    await node('scripts/prebuild.mjs', '--pack')
    const { homepage, bugs } = JSON.parse(fs.readFileSync(join(copy, 'package.json'), 'utf8'))
    t.is(homepage, 'https://forge.example/some/passfd#readme')
    t.is(bugs, 'https://forge.example/some/passfd/issues')
    await node('scripts/prebuild.mjs', '--clean')
    t.is(fs.readFileSync(join(copy, 'package.json'), 'utf8'), before)
  }
})

testInCi('the published files name no place on the machine that built them', t => {
  for (const { path } of packed.files) {
    const content = fs.readFileSync(join(installed, path), 'latin1')
    for (const place of [root, temporary]) t.false(content.includes(place.replace(/\/$/, '')), `${place} in ${path}`)
  }
})

testInCi('it is imported and used from a module', async t => {
  t.is(await program(folder, 'module.mjs', ESM), USED)
})

testInCi('it is required and used from a CommonJS script', async t => {
  t.is(await program(folder, 'script.cjs', CJS), USED)
})

testInCi('it works in worker threads, one after the other and at once', async t => {
  const source = `
    const { Worker, isMainThread } = require('node:worker_threads')
    if (isMainThread) {
      const start = () => new Promise((resolve, reject) => new Worker(__filename).on('error', reject).on('exit', resolve))
      start().then(() => Promise.all([start(), start()])).then(() => console.log('over'))
    } else { ${CJS} }`
  t.deepEqual((await program(folder, 'worker.cjs', source)).split('\n').sort(), [USED, USED, USED, 'over'].sort())
})

testInCi('it works through symbolic links, followed or not', async t => {
  const linked = join(temporary, 'linked')
  fs.mkdirSync(linked)
  fs.symlinkSync(join(folder, 'node_modules'), join(linked, 'node_modules'))
  // As pnpm lays it out: the package alone is a link
  const store = join(temporary, 'store')
  fs.mkdirSync(join(store, 'node_modules'), { recursive: true })
  fs.symlinkSync(installed, join(store, 'node_modules/passfd'))
  const programs = [
    [linked, 'module.mjs', ESM],
    [linked, 'script.cjs', CJS],
    [store, 'module.mjs', ESM]
  ] as const
  for (const [folder, name, source] of programs) {
    if (isFull) t.is(await program(folder, name, source), USED)
    fs.writeFileSync(join(folder, name), source)
  }
  const all = programs.map(([folder, name]) => `await import('${join(folder, name)}')`).join('\n')
  t.is(await program(linked, 'all.mjs', all), `${USED}\n${USED}\n${USED}`)
  t.is(await program(linked, 'script.cjs', CJS, ['--preserve-symlinks']), USED)
})

testInCi('its paths may hold what URLs escape', async t => {
  const odd = installedAgain('a folder with spaces, % and #é')
  t.is(await program(odd, 'module.mjs', ESM), USED)
})

testInCi('its declarations compile in a project that checks libraries', async t => {
  const source = `
    import { type Channel, connect, Descriptor, listen, type Message } from 'passfd'
    export const channel: Promise<Channel<unknown, { file: Descriptor }>> = connect('/path')
    export async function serve(): Promise<void> {
      const server = await listen<{ a: 1 }>('/path')
      server.serve((message: Message<{ a: 1 }>) => message.value.a)
    }`
  fs.writeFileSync(join(folder, 'program.ts'), source)
  const compilerOptions = {
    module: 'nodenext',
    target: 'es2022',
    strict: true,
    noEmit: true,
    skipLibCheck: false,
    // What browsers have is no part of ours, and takes as long as all the rest
    ...(isFull ? {} : { lib: ['es2022', 'esnext.disposable'] }),
    types: ['node'],
    typeRoots: [join(root, 'node_modules/@types')]
  }
  fs.writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['program.ts'] }))
  const compiler = [join(root, 'node_modules/typescript/bin/tsc'), '-p', folder]
  const { stdout } = await run(process.execPath, compiler).catch(error => error as { stdout: string })
  const ours = stdout.split('\n').filter(line => line.includes('error') && !line.includes('@types/node'))
  t.deepEqual(ours, [])
})

testInCi(
  `without the shim the error says where it looked and what to do${isFull ? ', and doing it helps' : ''}`,
  async t => {
    const without = installedAgain('without-shim')
    const where = join(without, 'node_modules/passfd')
    fs.rmSync(join(where, shim))
    const look = `import('passfd').then(() => console.log('loaded'), ({ name, code, message }) => console.log(JSON.stringify({ name, code, message })))`
    const { name, code, message } = JSON.parse(await program(without, 'look.mjs', look))
    t.is(name, 'PassfdError')
    t.is(code, 'ERR_PASSFD_NATIVE_MISSING')
    t.true(message.includes(join(where, shim)), message)
    t.true(message.includes(join(where, 'native/build/Release/passfd.node')), message)
    const [, advice] = /run "npx (node-gyp .*)" in /.exec(message) ?? []
    t.truthy(advice)
    if (!isFull) return
    const [, ...args] = advice!.split(' ')
    const headers = fs.existsSync(join(process.execPath, '../../include/node/node_api.h'))
      ? [`--nodedir=${join(process.execPath, '../..')}`]
      : []
    await run(process.execPath, [join(root, 'node_modules/node-gyp/bin/node-gyp.js'), ...args, ...headers], {
      cwd: where
    })
    t.is(await program(without, 'module.mjs', ESM), USED)
  }
)

testInCi('a shim that is there but broken is reported, not passed over in silence', async t => {
  const broken = installedAgain('broken-shim')
  const path = join(broken, 'node_modules/passfd', shim)
  fs.rmSync(path) // it is a link to that of the others
  fs.writeFileSync(path, 'no shared object')
  const look = `import('passfd').then(() => console.log('loaded'), ({ code, message }) => console.log(JSON.stringify({ code, message })))`
  const { code, message } = JSON.parse(await program(broken, 'look.mjs', look))
  t.is(code, 'ERR_PASSFD_NATIVE_DAMAGED')
  t.regex(message, /passfd\.node\) is damaged: .*invalid ELF header/)
})
