/** Copies of the built package, as several installations of it would lie in one process's folders. */
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { temporaryPath } from './path.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const shim = join(root, 'native/build/Release/passfd.node')
/** All copies find what passfd depends on above them. */
const above = temporaryPath()
fs.mkdirSync(above)
fs.symlinkSync(join(root, 'node_modules'), join(above, 'node_modules'))

let count = 0

/** A folder with a copy of dist/ or of the bundled build/dist/, and with the shim: copied, or the same file under another name by a hard or symbolic link. */
export function copyPackage(
  how: 'copy' | 'hard' | 'symbolic',
  version?: string,
  built: 'dist' | 'build/dist' = 'dist'
): { folder: string; url: string } {
  const folder = join(above, `copy${count++}`)
  fs.mkdirSync(dirname(join(folder, built)), { recursive: true })
  execFileSync('cp', ['-r', join(root, built), join(folder, built)]) // cpSync() needs ten times as much
  fs.copyFileSync(join(root, 'package.json'), join(folder, 'package.json'))
  const place = join(folder, 'native/build/Release/passfd.node')
  fs.mkdirSync(dirname(place), { recursive: true })
  if (how === 'copy') fs.copyFileSync(shim, place)
  else if (how === 'hard') linkOrCopy(place)
  else fs.symlinkSync(shim, place)
  if (version !== undefined) setVersion(folder, version)
  return { folder, url: pathToFileURL(join(folder, built, 'index.js')).href }
}

/** The built package itself. */
export const built: string = pathToFileURL(join(root, 'dist/index.js')).href

function linkOrCopy(place: string): void {
  try {
    fs.linkSync(shim, place)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error
    // Another file system: two links to one copy are the same kind
    const first = join(above, 'first.node')
    if (!fs.existsSync(first)) fs.copyFileSync(shim, first)
    fs.linkSync(first, place)
  }
}

/** Another version of passfd: in its sources, its manifest and its shim, whose string is of the same length. */
function setVersion(folder: string, version: string): void {
  const { version: before } = JSON.parse(fs.readFileSync(join(folder, 'package.json'), 'utf8'))
  if (version.length !== before.length) throw new Error(`a version of ${before.length} characters is needed`)
  for (const name of ['package.json', 'dist/wings/base.js', 'native/build/Release/passfd.node']) {
    const bytes = fs.readFileSync(join(folder, name))
    const changed = Buffer.from(bytes.toString('latin1').replaceAll(before, version), 'latin1')
    fs.rmSync(join(folder, name))
    fs.writeFileSync(join(folder, name), changed)
  }
}
