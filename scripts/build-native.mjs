/**
 * Builds the shim of native/ with node-gyp; silent unless it fails.
 * Also imported by sanitize.mjs, which builds a copy of native/ elsewhere.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)

/** Builds the node-gyp project in `folder`; returns the path of the shim, throws when the build fails. */
export function buildShim(folder, environment = process.env) {
  const nodeGyp = require.resolve('node-gyp/bin/node-gyp.js')
  const { status, stdout, stderr, error } = spawnSync(
    process.execPath,
    [nodeGyp, 'rebuild', '-C', folder, ...localHeaders()],
    { env: environment, encoding: 'utf8', maxBuffer: 64 << 20 }
  )
  if (error) throw error
  if (status !== 0) throw new Error(`node-gyp failed in ${folder}:\n${stdout}${stderr}`)
  return join(folder, 'build', 'Release', 'passfd.node')
}

/** Node's own headers, when it was installed with them: node-gyp needs no download then. */
function localHeaders() {
  if (process.env.npm_config_nodedir || process.env.npm_package_config_node_gyp_nodedir) return []
  const prefix = dirname(dirname(realpathSync(process.execPath)))
  return existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? [`--nodedir=${prefix}`] : []
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    buildShim(fileURLToPath(new URL('../native', import.meta.url)))
  } catch (error) {
    console.error(error.message)
    process.exitCode = 1
  }
}
