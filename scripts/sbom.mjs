/**
 * Writes the bill of materials of the published package, as CycloneDX: `node scripts/sbom.mjs <file>`. It lists what `npm install passfd` brings, and
 * what is inside the package: msgpackr, and the packages that scripts/build-cli.mjs has bundled. The same sources give the same bytes. Build first.
 *
 * `npm sbom` describes what is installed here. With `--omit dev` it leaves out packages that a development dependency needs, too (npm 11), so
 * this follows the dependencies itself.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const [output] = process.argv.slice(2)
if (output === undefined) throw new Error('usage: node scripts/sbom.mjs <file>')

const manifest = read('package.json')
const installed = JSON.parse(
  execFileSync('npm', ['sbom', '--sbom-format', 'cyclonedx', '--sbom-type', 'library'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024
  })
)
const byName = new Map(installed.components.map(component => [component['bom-ref'], component]))
const needs = new Map(installed.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn]))
const self = installed.metadata.component

const runtime = reachable(Object.keys(manifest.dependencies).map(name => installedAs(name)))
const inside = [
  component('msgpackr', read('node_modules/msgpackr/package.json').version, {
    notes: 'dist/codec/msgpackr/ has two of its modules, which scripts/msgpackr.mjs has changed.'
  }),
  ...[...readFileSync(join(root, 'dist/cli/LICENSES.txt'), 'utf8').matchAll(/^(\S+) (\d+\.\S+) \(.+\)$/gm)].map(
    ([, name, version]) => component(name, version, { notes: 'It is bundled in dist/cli/passfd.mjs.' })
  )
]
if (inside.length < 2) throw new Error('dist/cli/LICENSES.txt names no package: npm run build:ts')

const sbom = {
  $schema: installed.$schema,
  bomFormat: installed.bomFormat,
  specVersion: installed.specVersion,
  version: 1,
  metadata: {
    timestamp: execFileSync('git', ['log', '-1', '--format=%cI'], { cwd: root, encoding: 'utf8' }).trim(),
    tools: installed.metadata.tools,
    component: { ...self, name: manifest.name, components: inside.map(each => withParent(each)) }
  },
  components: runtime.map(ref => byName.get(ref)),
  dependencies: [
    {
      ref: self['bom-ref'],
      dependsOn: runtime.filter(ref => Object.keys(manifest.dependencies).some(name => ref.startsWith(`${name}@`)))
    },
    ...runtime.map(ref => ({ ref, dependsOn: needs.get(ref) }))
  ]
}
// Of the contents, so that it differs exactly if they do
const hash = createHash('sha256').update(JSON.stringify(sbom)).digest('hex')
const serial = `${hash.slice(0, 8)}-${hash.slice(8, 12)}-5${hash.slice(13, 16)}-8${hash.slice(17, 20)}-${hash.slice(20, 32)}`
writeFileSync(output, `${JSON.stringify({ ...sbom, serialNumber: `urn:uuid:${serial}` }, null, 2)}\n`)

function read(path) {
  return JSON.parse(readFileSync(join(root, path), 'utf8'))
}

/** Its reference, in the version that package.json resolves to. */
function installedAs(name) {
  const ref = `${name}@${read(`node_modules/${name}/package.json`).version}`
  if (!byName.has(ref)) throw new Error(`npm sbom does not list ${ref}: npm ci`)
  return ref
}

/** All that these need, sorted. */
function reachable(refs) {
  const found = new Set()
  const visit = ref => {
    if (found.has(ref)) return
    found.add(ref)
    for (const next of needs.get(ref)) visit(next)
  }
  for (const ref of refs) visit(ref)
  return [...found].sort()
}

/** A package within the package. Its code is changed, or a part of another file, so the hash of its tarball does not apply. */
function component(name, version, pedigree) {
  const known = byName.get(`${name}@${version}`)
  if (known === undefined) throw new Error(`npm sbom does not list ${name}@${version}`)
  const { hashes: _, properties: __, ...rest } = known
  return { ...rest, pedigree }
}

function withParent(each) {
  return { ...each, 'bom-ref': `${self['bom-ref']}|${each['bom-ref']}` }
}
