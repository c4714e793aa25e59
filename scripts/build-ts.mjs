/**
 * Builds dist/ (and the changed msgpackr in src/), unless both are as the last build left them and nothing that they are made of has changed:
 * `npm test` begins with this, and compiling takes some seconds.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const state = join(root, 'node_modules/.cache/passfd/built')
const STEPS = [
  ['scripts/msgpackr.mjs'],
  ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'],
  ['scripts/declarations.mjs'],
  ['scripts/strip-comments.mjs'],
  ['scripts/build-cli.mjs'],
  ['scripts/bundle.mjs']
]
/** node_modules/.package-lock.json names what npm has installed. */
const CONFIGURATION = [
  'package.json',
  'package-lock.json',
  'node_modules/.package-lock.json',
  'tsconfig.json',
  'tsconfig.build.json'
]

/** Of all that the result depends on, and of the result. */
function now() {
  const hash = createHash('sha256')
  for (const name of [...['src', 'scripts', 'dist'].flatMap(filesIn), ...CONFIGURATION].filter(isThere))
    hash
      .update(`${name}\0`)
      .update(readFileSync(join(root, name)))
      .update('\0')
  return hash.digest('hex')
}

function isThere(name) {
  return existsSync(join(root, name))
}

function filesIn(folder) {
  if (!isThere(folder)) return []
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap(entry => {
    const name = join(folder, entry.name)
    return entry.isDirectory() ? filesIn(name) : [name]
  })
}

if (!existsSync(state) || readFileSync(state, 'utf8') !== now()) {
  rmSync(state, { force: true })
  rmSync(join(root, 'dist'), { recursive: true, force: true }) // modules that there are no more would be published
  for (const step of STEPS) {
    const { status } = spawnSync(process.execPath, step, { cwd: root, stdio: 'inherit' })
    if (status !== 0) process.exit(status ?? 1)
  }
  mkdirSync(dirname(state), { recursive: true })
  writeFileSync(state, now())
}
