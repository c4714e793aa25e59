/**
 * Puts the built shim, stripped, where the published package has it: prebuilds/<platform>-<arch>/passfd.node. With `--manifest` it takes
 * `prepare`, which builds a clone, out of package.json, as npm asks whoever installs a tarball to allow that script.
 * `--clean` undoes both: src/os/native.ts looks in prebuilds/ first, so a stale copy would hide later builds.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { arch, argv, platform } from 'node:process'
import { fileURLToPath } from 'node:url'

const path = name => fileURLToPath(new URL(`../${name}`, import.meta.url))
const PREPARE = '    "prepare": "npm run build",\n'
const PREPACK = '    "prepack": '

rmSync(path('prebuilds'), { recursive: true, force: true })
if (argv.includes('--clean')) setPrepare(true)
else {
  const target = path(`prebuilds/${platform}-${arch}/passfd.node`)
  mkdirSync(dirname(target), { recursive: true })
  copyFileSync(path('native/build/Release/passfd.node'), target)
  execFileSync('strip', ['--strip-unneeded', target])
  if (argv.includes('--manifest')) setPrepare(false)
}

/** All else in package.json stays as it is, to the byte. */
function setPrepare(wanted) {
  const before = readFileSync(path('package.json'), 'utf8')
  const without = before.replace(PREPARE, '')
  const after = wanted ? without.replace(PREPACK, PREPARE + PREPACK) : without
  if ('prepare' in JSON.parse(after).scripts !== wanted)
    throw new Error('prepare is written differently in package.json')
  if (after !== before) writeFileSync(path('package.json'), after)
}
