/** What only the bench needs has a package.json and a lockfile of its own, here: it is installed when it is first asked for. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('.', import.meta.url))
let found: { reason: string | undefined } | undefined

/** Installs the packages of the bench unless they are there. Returns why that failed. */
export function install(): string | undefined {
  found ??= { reason: tryInstall() }
  return found.reason
}

function tryInstall(): string | undefined {
  // npm writes it when it is done
  if (existsSync(`${folder}node_modules/.package-lock.json`)) return undefined
  console.error('npm ci in bench/, once')
  const args = ['ci', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error']
  const { error, status } = spawnSync('npm', args, { cwd: folder, stdio: ['ignore', 2, 2] })
  if (error !== undefined) return `not installed, and npm can't be run (${error.message})`
  return status === 0 ? undefined : 'not installed: npm ci in bench/ has failed'
}
