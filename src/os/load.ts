/** Loads the shim. For each cause of a failure it throws an error that says why, and what to do. */
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs'
import nodeModule from 'node:module'
import { dirname, join } from 'node:path'
import { type ErrorKey, PassfdError } from '../base/errors.ts'
import { ownFile, packageRoot } from '../base/own-file.ts'
import { version } from '../base/version.ts'
import { libcOf } from './libc.ts'
import { isSingleExecutable, takeAsset } from './single-executable.ts'

/** The exports of the file: one object for all evaluations that load it in a thread. */
interface Shim {
  version?: string
  create?: () => unknown
}

/** e_machine of an ELF header (elf(5)), by Node's name of the architecture. */
const MACHINES: Record<string, number> = {
  x64: 62,
  arm64: 183,
  ia32: 3,
  arm: 40,
  riscv64: 243,
  s390x: 22,
  ppc64: 21,
  loong64: 258
}
const HEADER = 64
const NAME = 'passfd.node'

/** Runtimes that claim compatibility with Node, and what they lack: with the shim they would abort. */
const RUNTIMES: Record<string, [name: string, lack: string]> = {
  bun: ['Bun', "libuv's uv_poll_init, by which passfd watches descriptors"],
  deno: [
    'Deno',
    "libuv's uv_poll_init, by which passfd watches descriptors, and Node-API's handle scopes outside of calls"
  ]
}

/** A place, and the result of loading from it. */
interface Failure {
  readonly path: string
  readonly error: NodeJS.ErrnoException
  /** Undefined: it can't be read. */
  readonly file: { readonly header: Buffer; readonly size: number } | undefined
}

type Cause = [key: ErrorKey, details: (failure: Failure) => Record<string, string> | undefined]

/** From the most certain cause to the least certain; load() reports the first that fits. */
const CAUSES: readonly Cause[] = [
  ['NATIVE_FORBIDDEN', forbidden],
  ['NATIVE_UNREADABLE', ({ path, error, file }) => (file === undefined ? { path, detail: error.message } : undefined)],
  ['NATIVE_PLATFORM', platform],
  ['NATIVE_DAMAGED', ({ path, error }) => ({ path, detail: error.message })]
]

/** Names of the systems that people develop on, by Node's names. */
const SYSTEMS: Record<string, string> = { darwin: 'macOS', win32: 'Windows' }

/**
 * The binding for this evaluation; where it can't be (Bun, Deno, other systems than Linux), the error for its first use. Throws ERR_PASSFD_NATIVE_… where it
 * should be, and is not.
 */
export function load(): { binding: unknown } | { error: PassfdError; system?: string } {
  const versions = process.versions as Record<string, string | undefined>
  for (const [key, [runtime, lack]] of Object.entries(RUNTIMES))
    if (versions[key] !== undefined)
      return { error: new PassfdError('RUNTIME', { runtime, version: versions[key]!, lack }) }
  if (process.platform !== 'linux') {
    const system = SYSTEMS[process.platform] ?? process.platform
    return { error: new PassfdError('PLATFORM', { system }), system }
  }
  const { PASSFD_SHIM } = process.env
  const root = packageRoot
  const places = PASSFD_SHIM !== undefined ? [PASSFD_SHIM] : root === undefined ? besideBundle() : inPackage(root)
  for (const path of places) {
    const shim = existsOrForbidden(path) ? loadFile(path, root !== undefined) : undefined
    if (shim !== undefined) return { binding: shim.create!() }
  }
  const fromAsset =
    root === undefined && PASSFD_SHIM === undefined ? takeAsset(NAME, path => loadFile(path, false)) : undefined
  if (fromAsset !== undefined) return { binding: fromAsset.create!() }
  throw missing(places, root, PASSFD_SHIM !== undefined)
}

function inPackage(root: string): string[] {
  return [join(root, 'prebuilds', here(), NAME), join(root, 'native', 'build', 'Release', NAME)]
}

/** The name of the folder in prebuilds/ for this process. A program without a loader of its own is taken for one of glibc. */
function here(): string {
  return `${process.platform}-${process.arch}-${libcOf() ?? 'glibc'}`
}

/** Beside the bundle, and beside the program that was started: a bundler may put what several of its files share into a folder of its own. */
function foldersOfBundle(): string[] {
  const programs = isSingleExecutable() ? [process.execPath] : [process.argv[1], ownFile]
  return [...new Set(programs.filter(path => path !== undefined).map(dirname))]
}

function besideBundle(): string[] {
  return foldersOfBundle().flatMap(folder => [join(folder, 'prebuilds', here(), NAME), join(folder, NAME)])
}

/** Whether the file exists, or may exist because Node's permission model forbids this process to check. */
function existsOrForbidden(path: string): boolean {
  return existsSync(path) || (permission() !== undefined && !permission()!.has('fs.read', path))
}

function loadFile(path: string, inPackage: boolean): Shim {
  let shim: Shim
  const file = fileOf(path)
  // dlopen(3) maps as much as the headers name, so a truncated file would kill this process by SIGBUS
  const broken = file === undefined ? undefined : damaged({ path, file })
  if (broken !== undefined) throw new PassfdError('NATIVE_DAMAGED', broken)
  try {
    shim = inPackage ? byBindings(path) : byNode(path)
  } catch (error) {
    throw explained({ path, error: error as NodeJS.ErrnoException, file })
  }
  if (shim.version !== version || shim.create === undefined)
    throw new PassfdError('NATIVE_VERSION', { path, theirs: shim.version ?? 'an earlier one', ours: version })
  return shim
}

/** Not an import, because a bundler would rewrite it, and the result would fail before this code runs. webpack follows a createRequire that is imported. */
function byBindings(path: string): Shim {
  const bindings = nodeModule.createRequire(ownFile!)('bindings')
  return bindings({ bindings: 'passfd', module_root: dirname(path), try: [[path]] }) as Shim
}

function byNode(path: string): Shim {
  const module = { exports: {} as Shim }
  process.dlopen(module, path)
  return module.exports
}

function explained(failure: Failure): PassfdError {
  for (const [key, details] of CAUSES) {
    const found = details(failure)
    if (found !== undefined) return new PassfdError(key, found, { cause: failure.error })
  }
  throw failure.error
}

function fileOf(path: string): Failure['file'] {
  try {
    const fd = openSync(path, 'r')
    try {
      const header = Buffer.alloc(HEADER)
      const length = readSync(fd, header, 0, HEADER, 0)
      return { header: header.subarray(0, length), size: fstatSync(fd).size }
    } finally {
      closeSync(fd)
    }
  } catch {
    return undefined
  }
}

function permission(): { has(scope: string, reference?: string): boolean } | undefined {
  return (process as { permission?: { has(scope: string, reference?: string): boolean } }).permission
}

function forbidden({ path, error }: Failure): Record<string, string> | undefined {
  if (error.code === 'ERR_ACCESS_DENIED' && permission() !== undefined && !permission()!.has('fs.read', path))
    return {
      path,
      why: 'the permission model does not let this process read it',
      advice: `Run node with --allow-fs-read=${path}, too`
    }
  if (error.code !== 'ERR_DLOPEN_DISABLED' && error.code !== 'ERR_ACCESS_DENIED') return undefined
  return permission() === undefined
    ? { path, why: 'node was started with --no-addons', advice: 'Run node without it (see NODE_OPTIONS, too)' }
    : { path, why: 'the permission model forbids addons', advice: 'Run node with --allow-addons, too' }
}

function damaged({ path, file }: Pick<Failure, 'path' | 'file'>): Record<string, string> | undefined {
  const { header, size } = file!
  if (size === 0) return { path, detail: 'it is empty' }
  if (header.length < HEADER || header.readUInt32BE(0) !== 0x7f454c46)
    return { path, detail: 'it is no shared object (ELF): invalid ELF header' }
  if (header[4] !== 2 || header[5] !== 1) return undefined
  // A linker writes the section headers at the end of the file
  const end = Number(header.readBigUInt64LE(40)) + header.readUInt16LE(58) * header.readUInt16LE(60)
  return size < end ? { path, detail: `it has ${size} bytes, of ${end} at least: file too short` } : undefined
}

function platform({ path, error, file }: Failure): Record<string, string> | undefined {
  const { header } = file!
  const machine = header[5] === 2 ? header.readUInt16BE(18) : header.readUInt16LE(18)
  const place = `${process.platform}-${process.arch}`
  if (MACHINES[process.arch] !== undefined && machine !== MACHINES[process.arch]) {
    const other = Object.keys(MACHINES).find(name => MACHINES[name] === machine) ?? `machine ${machine}`
    return {
      path,
      built: other,
      here: place,
      advice: 'node_modules was copied from a machine of another architecture. Run "npm ci" where the program runs'
    }
  }
  const glibc = /version `GLIBC_([\d.]+)' not found/.exec(error.message)
  if (glibc !== null)
    return {
      path,
      built: `glibc ${glibc[1]} or later`,
      here: `${place} with glibc ${glibcVersion() ?? 'of another version'}`,
      advice: BUILD_HERE
    }
  // Where there is a compiler, glibc finds a text for its linker under the name of musl's library
  if (/musl|(^|\/)libc\.so: /.test(error.message))
    return { path, built: 'musl', here: `${place} with glibc`, advice: BUILD_HERE }
  // musl takes the names of glibc's libraries for its own, and then misses what only glibc has
  if (glibcVersion() === undefined && /: symbol not found|ld-linux/.test(error.message))
    return { path, built: 'glibc', here: `${place} with musl`, advice: BUILD_HERE }
  return undefined
}

const BUILD_HERE = `Build it there: run "npx node-gyp rebuild -C native" in passfd's folder, and remove its prebuilds`

function glibcVersion(): string | undefined {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime
}

function missing(places: readonly string[], root: string | undefined, named: boolean): PassfdError {
  const detail = places.map(path => `${path} is not there`).join('; ')
  if (named)
    return new PassfdError('NATIVE_MISSING', {
      detail,
      advice: 'PASSFD_SHIM names it: correct or remove that variable'
    })
  if (root === undefined) return new PassfdError('NATIVE_BUNDLED', { detail, folder: foldersOfBundle()[0] ?? '.' })
  const clone = existsSync(join(root, 'scripts', 'build-native.mjs'))
  if (clone)
    return new PassfdError('NATIVE_MISSING', {
      detail,
      advice: `This is a clone: run "npm run build:native" in ${root}`
    })
  const prebuilds = prebuildsIn(root)
  const build = `run "npx node-gyp rebuild -C native" in ${root}, which needs a C compiler and Python`
  if (prebuilds.length === 0 || prebuilds.includes(here()))
    return new PassfdError('NATIVE_MISSING', { detail, advice: `Reinstall passfd, or ${build}` })
  return new PassfdError('NATIVE_NONE', {
    here: words(here()),
    there: prebuilds.map(words).join('; '),
    advice: `To build one ${build}`
  })
}

function prebuildsIn(root: string): string[] {
  try {
    return readdirSync(join(root, 'prebuilds')).sort()
  } catch {
    return []
  }
}

/** 'linux-x64-glibc' in words. */
function words(prebuild: string): string {
  const [system = '', arch = '', libc = ''] = prebuild.split('-')
  return `${system[0]?.toUpperCase()}${system.slice(1)} on ${arch} with ${libc}`
}
