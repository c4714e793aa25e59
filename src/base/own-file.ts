/** Where the code of this copy of passfd is: in a file of the package, or in a bundle that a program's bundler has made. */
import { readFileSync } from 'node:fs'
import { dirname, isAbsolute, join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's folder as seen from the folder of a file in dist/wings/ or src/base/, and from what tests run in build/src/base/. */
const ROOTS = ['../..', '../../..']

/** So much of a path is the same in a package that was moved, and is not in a bundle: folder/folder/file. */
const TAIL = 3

/** The path of the file from which this code runs. Undefined: it is not known. */
export const ownFile: string | undefined = find()

/** The package's folder; undefined if this code was bundled into another file. */
export const packageRoot: string | undefined = findRoot()

/** The file that is loaded into the processes of a program: src/preload.cts. Undefined in a bundle, which does not contain it. */
export function preloadPaths(): string[] {
  if (ownFile === undefined || packageRoot === undefined) return []
  return ['preload.cjs', '../../dist/preload.cjs'].map(name => join(dirname(ownFile!), name))
}

function findRoot(): string | undefined {
  if (ownFile === undefined) return undefined
  const roots = ROOTS.map(name => join(dirname(ownFile!), name))
  try {
    return roots.find(isPassfd)
  } catch {
    return roots[0] // the permission model may allow the code, but not this folder
  }
}

/** Throws if Node's permission model does not allow to read there. */
function isPassfd(folder: string): boolean {
  try {
    return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name === 'passfd'
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_ACCESS_DENIED') throw error
    return false
  }
}

/**
 * Some bundlers leave nothing in `import.meta.url`, and webpack writes the path that the module had on the machine that built. The stack has the path of a
 * bundle, but V8 restores it with the code from a cache, and the package may have been moved since.
 */
function find(): string | undefined {
  const [meta, stack] = [fromMeta(), fromStack()]
  if (meta === undefined || stack === undefined) return meta ?? stack
  return tailOf(meta) === tailOf(stack) ? meta : stack
}

function tailOf(path: string): string {
  return path.split(sep).slice(-TAIL).join(sep)
}

function fromStack(): string | undefined {
  const { prepareStackTrace, stackTraceLimit } = Error
  // Source maps and other code's changes of stacks don't count here. With --frozen-intrinsics neither can be set
  const first = (_error: Error, sites: NodeJS.CallSite[]): unknown => sites[0]?.getFileName()
  Reflect.set(Error, 'stackTraceLimit', 1)
  Reflect.set(Error, 'prepareStackTrace', first)
  try {
    return pathOf(new Error().stack)
  } finally {
    Reflect.set(Error, 'stackTraceLimit', stackTraceLimit)
    Reflect.set(Error, 'prepareStackTrace', prepareStackTrace)
  }
}

function fromMeta(): string | undefined {
  try {
    return pathOf(import.meta.url)
  } catch {
    return undefined
  }
}

function pathOf(name: unknown): string | undefined {
  if (typeof name !== 'string') return undefined
  if (name.startsWith('file:')) return fileURLToPath(name)
  return isAbsolute(name) ? name : undefined
}
