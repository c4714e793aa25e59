/** Packs this clone, for what installs it: test/package.test.ts and test/runners. */
import { execFile } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
const NOT_PACKED = ['node_modules', 'prebuilds', 'build', '.cache', '.git', 'test', 'bench', 'examples']

/**
 * Packs a copy of the work tree in `folder`, scripts and all, so that the build of the tests in progress isn't touched. `complete`: builds all that
 * `npm publish` builds, and takes the shims that scripts/prebuild.mjs has built. Otherwise it takes the shim and dist/ as `npm test` has built them.
 */
export async function pack(folder, complete) {
  const copy = join(folder, 'source')
  const left = complete ? [...NOT_PACKED, 'dist'] : NOT_PACKED
  fs.cpSync(root, copy, { recursive: true, filter: from => !left.includes(from.split('/').at(-1)) || from === root })
  fs.symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const original = fs.readFileSync(join(root, 'package.json'), 'utf8')
  const text = complete ? original : original.replace('"prepack": "npm run build && ', '"prepack": "')
  if (complete) {
    fs.cpSync(join(root, '.cache/prebuilds'), join(copy, '.cache/prebuilds'), { recursive: true })
    // The build uses it, too
    fs.cpSync(join(root, 'test/helpers/files-in.mjs'), join(copy, 'test/helpers/files-in.mjs'))
  } else {
    fs.cpSync(join(root, 'native/build/Release/passfd.node'), join(copy, 'native/build/Release/passfd.node'))
    // npm would run it behind prepack, and build
    fs.writeFileSync(join(copy, 'package.json'), text.replace('    "prepare": "npm run build",\n', ''))
  }
  const env = complete ? process.env : { ...process.env, PASSFD_PACK: 'host' }
  const args = ['pack', '--json', '--pack-destination', folder, '--no-audit', '--no-fund', '--offline']
  const { stdout } = await run('npm', args, { cwd: copy, env, maxBuffer: 1 << 24 })
  const [packed] = JSON.parse(stdout.slice(stdout.search(/^\[$/m)))
  if (fs.existsSync(join(copy, 'prebuilds'))) throw new Error('prebuilds/ was left behind')
  if (fs.readFileSync(join(copy, 'package.json'), 'utf8') !== text) throw new Error('package.json was left changed')
  return { ...packed, tarball: join(folder, packed.filename) }
}
