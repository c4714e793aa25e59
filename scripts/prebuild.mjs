/**
 * Puts the built shim, stripped, where the published package has it: prebuilds/<platform>-<arch>/passfd.node.
 * `--clean` removes prebuilds/ again: src/native.ts looks there first, so a stale copy would hide later builds.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { arch, argv, platform } from 'node:process'
import { fileURLToPath } from 'node:url'

const path = name => fileURLToPath(new URL(`../${name}`, import.meta.url))

rmSync(path('prebuilds'), { recursive: true, force: true })
if (!argv.includes('--clean')) {
  const target = path(`prebuilds/${platform}-${arch}/passfd.node`)
  mkdirSync(dirname(target), { recursive: true })
  copyFileSync(path('native/build/Release/passfd.node'), target)
  execFileSync('strip', ['--strip-unneeded', target])
}
