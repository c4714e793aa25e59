/** Debian in a folder. Needs root, debootstrap(8) and a Debian mirror. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'

/**
 * Makes a folder by `fill`, which gets the name under which to make and fill it; does nothing if it is there. What is there is whole, because it is renamed
 * at the end.
 */
export function makeFolder(folder, fill) {
  if (existsSync(folder)) return
  const unfinished = `${folder}.new`
  rmSync(unfinished, { recursive: true, force: true })
  mkdirSync(dirname(folder), { recursive: true })
  fill(unfinished)
  renameSync(unfinished, folder)
}

/** The smallest Debian of a suite, with further packages, in a folder that is not there yet. */
export function debootstrap(suite, folder, packages = []) {
  const include = packages.length > 0 ? [`--include=${packages}`] : []
  run('debootstrap', ['--variant=minbase', ...include, suite, folder])
}

/** Installs packages in such a folder; `arm64`: further ones, of that architecture. */
export function install(folder, packages, arm64 = []) {
  if (arm64.length > 0) within(folder, ['dpkg', '--add-architecture', 'arm64'])
  within(folder, ['apt-get', '-q', 'update'])
  const names = [...packages, ...arm64.map(name => `${name}:arm64`)]
  within(folder, ['apt-get', '-q', '-y', '--no-install-recommends', 'install', ...names])
  within(folder, ['apt-get', 'clean'])
}

/** Runs a command with that folder as its root, and returns its output. */
export function within(folder, command) {
  return run('chroot', [folder, ...command])
}

/** Runs a command and returns its output; if it fails, throws an error with all of that. */
export function run(command, args, options = {}) {
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, {
    env,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    ...options
  })
  if (error) throw new Error(`${command}: ${error.message}`)
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: status ${status ?? signal}\n${stdout}${stderr}`)
  return stdout
}
