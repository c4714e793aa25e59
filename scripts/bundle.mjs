/**
 * Joins the modules in dist/ to one file for each wing: Node loads these in half of the time. The doors stay where package.json names them, and so do
 * the modules that the command and preload.cjs load. All others are removed. Names stay as they are, for stack traces.
 */
import { readFileSync, rmSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rollup } from 'rollup'
import { filesIn } from '../test/helpers/files-in.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const dist = join(root, 'dist')
/** Modules of others, with the licence beside them; what is bundled already; and the script that stands before all modules. */
const AS_IT_IS = /^(codec\/msgpackr\/|cli\/|preload\.cjs$)/

const modules = filesIn(dist).filter(name => /\.c?js$/.test(name) && !AS_IT_IS.test(name))
const bundle = await rollup({
  input: Object.fromEntries(entries().map(name => [name, join(dist, `${name}.js`)])),
  external: id => !/^[./]/.test(id) || AS_IT_IS.test(relative(dist, id)),
  treeshake: { preset: 'safest', moduleSideEffects: 'no-external' },
  preserveEntrySignatures: 'strict',
  onLog(_level, { message }) {
    throw new Error(message) // a circle of wings, say
  }
})
const { output } = await bundle.write({
  dir: dist,
  entryFileNames: '[name].js',
  chunkFileNames: 'wings/[name].js',
  manualChunks: wingOf,
  minifyInternalExports: false,
  hoistTransitiveImports: false
})
await bundle.close()
const written = new Set(output.map(({ fileName }) => fileName))
for (const name of modules) if (!written.has(name)) rmSync(join(dist, name))

/** The modules that are loaded by their own names. */
function entries() {
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const doors = Object.values(exports).flatMap(door => door.default ?? [])
  const loaded = [
    ...readFileSync(join(dist, 'cli/passfd.mjs'), 'utf8').matchAll(/\bfrom ?"\.\.\/([\w/-]+\.js)"/g),
    ...readFileSync(join(dist, 'preload.cjs'), 'utf8').matchAll(/\brequire\("\.\/([\w/-]+\.js)"\)/g)
  ].map(([, name]) => name)
  if (!loaded.includes('prefork/worker/program.js')) throw new Error('what preload.cjs loads is not found')
  return [...new Set([...doors.map(door => relative('dist', door)), ...loaded])].map(name => name.slice(0, -3))
}

/** The file for a module. A program's worker needs only a part of prefork/, and the command needs launch/ alone in some cases. */
function wingOf(id) {
  const [wing, part] = relative(dist, id).split(sep)
  if (wing !== 'prefork') return wing === 'index.js' ? undefined : wing
  if (part === 'launch') return 'prefork-launch'
  return part === 'worker' || part === 'control' ? 'prefork-worker' : 'prefork'
}
