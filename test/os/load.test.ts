import { execFile, execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { version } from '../../src/base/version.ts'
import { libcOf } from '../../src/os/libc.ts'
import { built, copyPackage } from '../helpers/copies.ts'
import { isFull } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test, testInCi } from '../helpers/test.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
/** What a program that imports it has to load is less. */
const bundled = pathToFileURL(join(root, 'build/dist/index.js')).href
const fixture = join(root, 'test/fixtures/use-shim.mjs')

const libc = libcOf() ?? 'glibc'

interface Told {
  imported: boolean
  used?: string
  code?: string
  message?: string
}

async function use(
  url: string,
  flags: string[] = [],
  options: { uid?: number; env?: NodeJS.ProcessEnv } = {}
): Promise<Told> {
  return (await useAll([url], flags, options))[0]!
}

/** One after the other, in one process. */
async function useAll(
  urls: string[],
  flags: string[] = [],
  options: { uid?: number; env?: NodeJS.ProcessEnv } = {}
): Promise<Told[]> {
  const { stdout } = await run(process.execPath, ['--no-warnings', ...flags, fixture, ...urls], options)
  return stdout
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
}

/** A copy of the package whose shim is changed. */
function changed(change: (bytes: Buffer, path: string) => Buffer | undefined): {
  folder: string
  url: string
  path: string
} {
  const copy = copyPackage('copy', undefined, 'build/dist')
  const path = join(copy.folder, 'native/build/Release/passfd.node')
  const bytes = fs.readFileSync(path)
  fs.rmSync(path)
  const made = change(bytes, path)
  if (made !== undefined) fs.writeFileSync(path, made)
  return { ...copy, path }
}

type Change = (bytes: Buffer, path: string) => Buffer | undefined
const glibc: Change = bytes => Buffer.from(bytes.toString('latin1').replace(/GLIBC_2\.\d\d/g, 'GLIBC_9.99'), 'latin1')
const machine =
  (number: number): Change =>
  bytes => {
    bytes.writeUInt16LE(number, 18)
    return bytes
  }

const FOR_MUSL = /built for musl; .* with glibc.*node-gyp rebuild/

/** What is wrong with the file, the code, and what its message must say. */
const files: [name: string, change: Change, code: string, says: RegExp][] = [
  [
    'of arm64',
    machine(process.arch === 'arm64' ? 62 : 183),
    'NATIVE_PLATFORM',
    /built for (arm64|x64); .*architecture/
  ],
  ['of riscv64', machine(243), 'NATIVE_PLATFORM', /built for riscv64/],
  ['of a machine nobody knows', machine(999), 'NATIVE_PLATFORM', /built for machine 999/],
  [
    'for a newer glibc',
    glibc,
    'NATIVE_PLATFORM',
    /built for glibc 9\.99\S* or later; .* with glibc \d.*node-gyp rebuild/
  ],
  ['for musl of Alpine', musl('libc.musl-x86_64.so.1'), 'NATIVE_PLATFORM', FOR_MUSL],
  ['for musl', musl('libc.so'), 'NATIVE_PLATFORM', FOR_MUSL],
  ['that is empty', () => Buffer.alloc(0), 'NATIVE_DAMAGED', /it is empty.*reinstall/],
  [
    'that is a text',
    () => Buffer.from('no shared object'.repeat(20)),
    'NATIVE_DAMAGED',
    /invalid ELF header.*reinstall/
  ],
  ['cut in its header', bytes => bytes.subarray(0, 40), 'NATIVE_DAMAGED', /ELF/],
  [
    'cut in the middle',
    bytes => bytes.subarray(0, bytes.length >> 1),
    'NATIVE_DAMAGED',
    /of \d+ at least: file too short/
  ],
  ['cut before its sections end', bytes => bytes.subarray(0, -64), 'NATIVE_DAMAGED', /file too short/],
  ['with zeros in the middle', bytes => bytes.fill(0, 64, 4096), 'NATIVE_DAMAGED', /passfd\.node/],
  [
    'of another version',
    bytes => Buffer.from(bytes.toString('latin1').replaceAll(version, '7.7.7'), 'latin1'),
    'NATIVE_VERSION',
    /version 7\.7\.7 .* version 0\./
  ],
  ['that is another addon', otherAddon, 'NATIVE_VERSION', /an earlier one/],
  ['that is not there', () => undefined, 'NATIVE_MISSING', /is not there.*Reinstall passfd/]
]

/** A shared object that needs the C library of musl, which has this name. */
function musl(name: string): Change {
  return (_bytes, path) => {
    const library = temporaryPath('musl.so')
    const gcc = (...args: string[]) =>
      execFileSync('gcc', ['-shared', '-nostdlib', '-fPIC', '-x', 'c', '/dev/null', ...args])
    gcc(`-Wl,-soname,${name}`, '-o', library)
    gcc('-x', 'none', '-Wl,--no-as-needed', library, '-o', path)
    return undefined
  }
}

function otherAddon(_bytes: Buffer, path: string): undefined {
  const source = temporaryPath('other.c')
  fs.writeFileSync(source, 'void *napi_register_module_v1(void *env, void *exports) { (void) env; return exports; }')
  execFileSync('gcc', ['-shared', '-fPIC', '-x', 'c', source, '-o', path])
}

/** What a process says that imports a copy with each of them. */
let all: Promise<{ path: string; told: Told }[]> | undefined

async function importAll(): Promise<{ path: string; told: Told }[]> {
  const copies = [...files.map(([, change]) => changed(change)), clone()]
  const told = await useAll(copies.map(({ url }) => url))
  return copies.map(({ path }, index) => ({ path, told: told[index]! }))
}

for (const [index, [name, , code, says]] of files.entries())
  testInCi(`a file ${name} is reported at the import, with what to do`, async t => {
    all ??= importAll()
    const { path, told } = (await all)[index]!
    t.false(told.imported)
    t.is(told.code, `ERR_PASSFD_${code}`, told.message)
    t.regex(told.message!, says)
    t.true(told.message!.includes(path), told.message)
  })

/** A copy that is a clone, and was not built. */
function clone(): { folder: string; url: string; path: string } {
  const copy = changed(() => undefined)
  fs.mkdirSync(join(copy.folder, 'scripts'))
  fs.writeFileSync(join(copy.folder, 'scripts/build-native.mjs'), '')
  return copy
}

testInCi('a clone that was not built says how', async t => {
  all ??= importAll()
  const { told } = (await all)[files.length]!
  t.is(told.code, 'ERR_PASSFD_NATIVE_MISSING')
  t.regex(told.message!, /This is a clone: run "npm run build:native" in /)
})

test('PASSFD_SHIM that leads nowhere is named', async t => {
  const told = await use(bundled, [], { env: { ...process.env, PASSFD_SHIM: '/does/not/exist' } })
  t.is(told.code, 'ERR_PASSFD_NATIVE_MISSING')
  t.regex(told.message!, /\/does\/not\/exist is not there.*PASSFD_SHIM names it/)
})

const permission = process.allowedNodeEnvironmentFlags.has('--permission')
  ? '--permission'
  : '--experimental-permission'

testInCi('the flags that forbid addons are named', async t => {
  const flags: [flags: string[], says: RegExp][] = [
    [['--no-addons'], /--no-addons.*Run node without it/],
    [[permission, '--allow-fs-read=*'], /permission model forbids addons.*--allow-addons/]
  ]
  for (const [given, says] of flags) {
    const told = await use(bundled, given)
    t.is(told.code, 'ERR_PASSFD_NATIVE_FORBIDDEN', told.message)
    t.regex(told.message!, says)
  }
  t.like(await use(bundled, [permission, '--allow-fs-read=*', '--allow-addons']), { imported: true })
})

test('trap: a file that this user may not read', async t => {
  const { folder, url, path } = changed(bytes => bytes)
  for (let above = folder; above !== '/tmp' && above !== '/'; above = join(above, '..')) fs.chmodSync(above, 0o755)
  fs.chmodSync(path, 0o600)
  const program = `${temporaryPath('use')}.mjs`
  fs.copyFileSync(fixture, program)
  const { stdout } = await run(process.execPath, [program, url], {
    uid: 65534,
    cwd: '/',
    env: { ...process.env, PASSFD_SHIM: undefined }
  })
  const told: Told = JSON.parse(stdout)
  t.is(told.code, 'ERR_PASSFD_NATIVE_UNREADABLE', told.message)
  t.regex(told.message!, /Give this user the right/)
})

testInCi('bundled: the error says what to do, and doing it helps', async t => {
  const formats = ['esm', 'cjs'] as const
  /** One folder for each format as the bundler leaves it, and one where the advice was followed. */
  const [before, after] = [0, 1].map(() =>
    formats.map(format => {
      const folder = temporaryPath('bundle')
      fs.mkdirSync(folder)
      return { folder, path: join(folder, format === 'esm' ? 'bundle.mjs' : 'bundle.cjs') }
    })
  ) as [{ folder: string; path: string }[], { folder: string; path: string }[]]
  for (const [index, format] of formats.entries()) {
    const { folder, path } = after[index]!
    const options = ['--bundle', '--platform=node', '--log-level=error', `--format=${format}`, `--outfile=${path}`]
    await run(join(root, 'node_modules/esbuild/bin/esbuild'), [fileURLToPath(built), ...options])
    fs.copyFileSync(path, before[index]!.path)
    fs.copyFileSync(join(root, 'native/build/Release/passfd.node'), join(folder, 'passfd.node'))
  }
  const told = await useAll([...before, ...after].map(({ path }) => path))
  for (const [index, { folder }] of before.entries()) {
    const { code, message } = told[index]!
    t.is(code, 'ERR_PASSFD_NATIVE_BUNDLED', message)
    t.regex(
      message!,
      /Mark passfd as external .* or copy .* beside the program that you start: cp -r node_modules\/passfd\/prebuilds /
    )
    t.true(message!.includes(join(folder, 'passfd.node')))
  }
  for (const each of told.slice(2)) t.like(each, { imported: true, used: 'file' })
})

testInCi('where the package has no binary for this machine, it names all that it has', async t => {
  const copy = changed(() => undefined)
  for (const name of ['linux-riscv64-musl', 'linux-s390x-glibc'])
    fs.mkdirSync(join(copy.folder, 'prebuilds', name), { recursive: true })
  const { code, message } = await use(copy.url)
  t.is(code, 'ERR_PASSFD_NATIVE_NONE', message)
  t.regex(
    message!.replace(` on ${process.arch} with ${libc};`, ' here;'),
    /^There is no binary of passfd for Linux here; these exist: Linux on riscv64 with musl; Linux on s390x with glibc\. To build one run "npx node-gyp rebuild -C native" in /
  )
})

testInCi('a binary in prebuilds/ for this machine is taken', async t => {
  const copy = changed(bytes => bytes)
  const place = join(copy.folder, 'prebuilds', `linux-${process.arch}-${libc}`)
  fs.mkdirSync(place, { recursive: true })
  fs.renameSync(copy.path, join(place, 'passfd.node'))
  t.like(await use(copy.url), { imported: true, used: 'file' })
})

/** What `npm run build:prebuild` makes; a full run does that before its tests. */
const published = join(root, '.cache/prebuilds')

if (isFull || fs.existsSync(published))
  test('of the published binaries the one for this process is taken, and of each other one the error says what it was built for', async t => {
    for (const name of ['linux-x64-glibc', 'linux-arm64-glibc', 'linux-x64-musl', 'linux-arm64-musl']) {
      const [, itsArch, itsLibc] = name.split('-')
      const path = join(published, name, 'passfd.node')
      const told = await use(bundled, [], { env: { ...process.env, PASSFD_SHIM: path } })
      if (itsArch === process.arch && itsLibc === libc) {
        t.like(told, { imported: true, used: 'file' }, told.message)
        continue
      }
      t.is(told.code, 'ERR_PASSFD_NATIVE_PLATFORM', told.message)
      const isOtherArch = itsArch !== process.arch
      const here = `linux-${process.arch}${isOtherArch ? '.' : ` with ${libc}.`}`
      const says = `(${path}) was built for ${isOtherArch ? itsArch : itsLibc}; this process runs on ${here}`
      t.true(told.message!.includes(says), told.message)
    }
  })

// Without what Node does not have there, either
const WITHOUT = "for (const name of ['getuid', 'geteuid', 'getgid', 'getegid', 'getgroups']) delete process[name]"
for (const [platform, system, more] of [
  ['darwin', 'macOS', ''],
  ['win32', 'Windows', WITHOUT],
  ['freebsd', 'freebsd', '']
] as const)
  testInCi(
    `on ${system} every door is imported without the shim, and its first use says why it does not work`,
    async t => {
      const { folder } = copyPackage('copy')
      fs.rmSync(join(folder, 'native'), { recursive: true })
      const source = `Object.defineProperty(process, 'platform', { value: '${platform}' }); ${more}`
      const told = await use(pathToFileURL(join(folder, 'dist/index.js')).href, [
        ...['--import', `data:text/javascript,${encodeURIComponent(source)}`]
      ])
      t.like(told, { imported: true, ours: true, code: 'ERR_PASSFD_PLATFORM' }, told.message)
      t.regex(told.message!, new RegExp(`^Descriptors are passed on Linux only, and this is ${system}\\.`))
    }
  )

for (const runtime of ['bun', 'deno'])
  test(`in ${runtime} passfd is imported, and the first use of the shim says what is missing`, async t => {
    const source = `Object.defineProperty(process, 'versions', { value: { ...process.versions, ${runtime}: '1.2.3' } })`
    const told = await use(bundled, ['--import', `data:text/javascript,${encodeURIComponent(source)}`])
    t.like(told, { imported: true, ours: true, code: 'ERR_PASSFD_RUNTIME' })
    t.regex(
      told.message!,
      new RegExp(`^${runtime} \\(1\\.2\\.3\\) does not run passfd: it lacks .*uv_poll_init.*Node 20\\.19`, 'i')
    )
  })
