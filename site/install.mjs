/** What only the pages need has a package.json and a lockfile of its own, here: it is installed when it is first asked for. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('.', import.meta.url))

/** Installs the packages of the site unless they are there as the lockfile names them. Throws if that fails. */
export function install() {
  if (isInstalled()) return
  console.error('npm ci in site/, once')
  const args = ['ci', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  const { error, status } = spawnSync('npm', args, { cwd: folder, stdio: ['ignore', 2, 2] })
  if (error !== undefined) throw new Error(`npm can't be run (${error.message})`)
  if (status !== 0) throw new Error('npm ci in site/ has failed')
}

/** npm writes a lockfile into node_modules when it is done: it has fewer packages, because those of other platforms are not there. */
function isInstalled() {
  const hidden = `${folder}node_modules/.package-lock.json`
  if (!existsSync(hidden)) return false
  const wanted = packagesOf(`${folder}package-lock.json`)
  return Object.entries(packagesOf(hidden)).every(([name, { version }]) => wanted[name]?.version === version)
}

function packagesOf(lockfile) {
  return JSON.parse(readFileSync(lockfile, 'utf8')).packages
}
