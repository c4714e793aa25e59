/**
 * `npm run drawings`: draws docs/drawings/NAME.svg from NAME.d2, for all of them, by D2. With `--check` it writes nothing, and fails if a drawing
 * is not what its source makes. Each drawing has both colours: a viewer shows that of its reader's scheme.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install } from './install.mjs'

const folder = fileURLToPath(new URL('../docs/drawings/', import.meta.url))
/** Themes of D2: "Neutral default", and "Dark Mauve" for a dark scheme. */
const LOOK = { themeID: 0, darkThemeID: 200, pad: 8, scale: 0.75, noXMLTag: true }
const isCheck = process.argv.includes('--check')

install()
const { D2 } = await import('@terrastruct/d2')
const d2 = new D2()
let different = 0
for (const name of readdirSync(folder).filter(file => file.endsWith('.d2'))) {
  const source = readFileSync(join(folder, name), 'utf8')
  const path = join(folder, name.replace(/\.d2$/, '.svg'))
  const svg = `${await drawn(source)}\n${mark(source)}\n`
  if (!isCheck) writeFileSync(path, svg)
  else if (readFileSync(path, 'utf8') !== svg) {
    console.error(`docs/drawings/${name} has changed: run "npm run drawings"`)
    different++
  }
}
// Its worker thread does not end by itself
process.exit(different > 0 ? 1 : 0)

async function drawn(source) {
  const { diagram, renderOptions } = await d2.compile(source, { layout: 'elk' })
  return (await d2.render(diagram, { ...renderOptions, ...LOOK })).trim()
}

/** By which a test sees, without D2, that the drawing is of this source. */
function mark(source) {
  return `<!-- sha256 of the source: ${createHash('sha256').update(source).digest('hex')} -->`
}
