/** The tarball that `npm publish` would publish. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pack } from '../../test/helpers/pack.mjs'
import { path } from '../targets.mjs'

const FOLDER = path('.cache/platforms/packed')
/** What is packed, and what that is made of. */
const SOURCES = ['src', 'native/waist', 'native/glue', 'native/binding.gyp', 'docs', 'scripts', '.cache/prebuilds']
const FILES = /\.md$|^package\.json$|^LICENSE$/

/** Its path. Nothing is packed if that was done with the same sources before. */
export async function packed() {
  const folder = join(FOLDER, hashOf([...SOURCES, ...readdirSync(path('.')).filter(name => FILES.test(name))]))
  const tarball = join(folder, 'passfd.tgz')
  if (existsSync(tarball)) return tarball
  console.error('platforms: packing')
  const outside = mkdtempSync(join(tmpdir(), 'passfd-platforms-')) // a folder is not copied into itself
  try {
    const made = await pack(outside, true)
    mkdirSync(folder, { recursive: true })
    copyFileSync(made.tarball, `${tarball}.new`)
    renameSync(`${tarball}.new`, tarball) // now it is whole
  } finally {
    rmSync(outside, { recursive: true })
  }
  return tarball
}

function hashOf(names) {
  const hash = createHash('sha256')
  const add = name => {
    if (!existsSync(path(name)) || name.startsWith('scripts/platforms')) return
    if (statSync(path(name)).isDirectory()) for (const entry of readdirSync(path(name)).sort()) add(join(name, entry))
    else hash.update(`${name}\0`).update(readFileSync(path(name)))
  }
  for (const name of names) add(name)
  return hash.digest('hex').slice(0, 16)
}

/** Unpacks it into a folder, without the folder in which all of it lies. */
export function unpack(tarball, folder) {
  mkdirSync(folder, { recursive: true })
  execFileSync('tar', ['-xzf', tarball, '--strip-components=1', '-C', folder])
}
