/**
 * Makes the toolchain of the published shims: Debian 11 with compilers for x64 and arm64, glibc and musl, in .cache/toolchain. A binary that is linked
 * with its glibc needs glibc 2.28, as Node 20 itself does. Needs root, debootstrap(8) and a Debian mirror; some minutes and 900 MB. Does nothing if it is
 * there.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { arch } from 'node:process'
import { path } from './targets.mjs'

const SUITE = 'bullseye'
const PACKAGES = ['gcc', 'libc6-dev', 'musl-dev', 'gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross']
/** Of the other architecture: musl has no cross package. */
const FOREIGN = 'musl-dev:arm64'

export const TOOLCHAIN = path('.cache/toolchain')

export function makeToolchain() {
  if (existsSync(TOOLCHAIN)) return
  if (arch !== 'x64') throw new Error(`the toolchain runs on x64, this is ${arch}`)
  const folder = `${TOOLCHAIN}.new`
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(dirname(folder), { recursive: true })
  run('debootstrap', ['--variant=minbase', `--include=${PACKAGES}`, SUITE, folder])
  within(folder, ['dpkg', '--add-architecture', 'arm64'])
  within(folder, ['apt-get', '-q', 'update'])
  within(folder, ['apt-get', '-q', '-y', '--no-install-recommends', 'install', FOREIGN])
  within(folder, ['apt-get', 'clean'])
  renameSync(folder, TOOLCHAIN) // what is there is whole
}

/** Runs a command in the toolchain, in its folder /src, and returns its output. */
export function inToolchain(command) {
  return within(TOOLCHAIN, ['sh', '-c', 'cd /src && exec "$@"', 'sh', ...command])
}

function within(folder, command) {
  return run('chroot', [folder, ...command])
}

function run(command, args) {
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }
  const { status, stdout, stderr, error } = spawnSync(command, args, { env, encoding: 'utf8', maxBuffer: 64 << 20 })
  if (error) throw new Error(`${command}: ${error.message}`)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: status ${status}\n${stdout}${stderr}`)
  return stdout
}
