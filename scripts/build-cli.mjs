/**
 * Bundles the command: src/cli/passfd.ts and the packages that it imports, into dist/cli/passfd.mjs; their licences into
 * dist/cli/LICENSES.txt. passfd itself is imported from dist/, as programs import it: there is one copy in a process.
 */
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import esbuild from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
const source = join(root, 'src')
const folder = join(root, 'dist', 'cli')
const MAX_SIZE = 150_000
/** Some of the packages are CommonJS modules that require Node's. */
const BANNER = `#!/usr/bin/env node
import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);`

const { metafile } = await esbuild.build({
  absWorkingDir: root,
  entryPoints: [join(source, 'cli', 'passfd.ts')],
  outfile: join(folder, 'passfd.mjs'),
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  minify: true,
  legalComments: 'none',
  banner: { js: BANNER },
  metafile: true,
  logLevel: 'warning',
  plugins: [
    {
      name: 'passfd',
      setup(build) {
        build.onResolve({ filter: /^\.{1,2}\// }, ({ path, importer }) => {
          const target = join(dirname(importer), path)
          const inside = relative(source, target)
          if (inside.startsWith(`cli${sep}`) || inside.startsWith('..')) return undefined
          return { path: relative(folder, join(root, 'dist', inside)).replace(/\.ts$/, '.js'), external: true }
        })
      }
    }
  ]
})
await esbuild.stop()
chmodSync(join(folder, 'passfd.mjs'), 0o755)
writeFileSync(join(folder, 'LICENSES.txt'), licences())
const size = gzipSync(readFileSync(join(folder, 'passfd.mjs'))).length
if (size > MAX_SIZE) throw new Error(`dist/cli/passfd.mjs is too large: ${size} bytes with gzip, at most ${MAX_SIZE}`)

/** The licences of the packages in the bundle, in the order of their names. */
function licences() {
  const packages = new Set(
    Object.keys(metafile.inputs).flatMap(path => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? [])
  )
  const parts = [...packages].sort().map(path => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8'))
    const file = readdirSync(join(root, path)).find(file => /^licen[cs]e/i.test(file))
    if (file === undefined) throw new Error(`${path} has no file with its licence`)
    return `${name} ${version} (${license})\n\n${readFileSync(join(root, path, file), 'utf8').trim()}\n`
  })
  return `passfd.mjs beside this file contains these packages.\n\n${parts.join(`\n${'-'.repeat(80)}\n\n`)}`
}
