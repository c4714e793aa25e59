/** The drawings of docs/drawings are of their sources, stand on a page, and show what the code is. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = join(root, 'docs/drawings')
const files = readdirSync(folder)
const sources = files.filter(name => name.endsWith('.d2'))

// CI's long run draws them all again: npm run drawings -- --check
for (const name of sources)
  test(`docs/drawings/${name} is drawn`, t => {
    const drawing = read(`docs/drawings/${name.replace(/\.d2$/, '.svg')}`)
    const hash = createHash('sha256')
      .update(read(`docs/drawings/${name}`))
      .digest('hex')
    t.true(drawing.includes(hash), 'run: npm run drawings')
    t.true(drawing.includes('@media screen and (prefers-color-scheme:dark)'), 'it has colours for dark pages')
    t.notRegex(drawing.replaceAll(/xmlns(:\w+)?="[^"]*"/g, ''), /https?:/, 'it loads nothing')
  })

test('each drawing has a source, and stands on a page', t => {
  const pages = ['README.md', ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })]
    .filter(path => path.endsWith('.md'))
    .map(path => (path === 'README.md' ? path : `docs/${path}`))
    .map(read)
  for (const name of files.filter(file => file.endsWith('.svg'))) {
    t.true(sources.includes(name.replace(/\.svg$/, '.d2')), name)
    t.true(
      pages.some(text => text.includes(`drawings/${name})`)),
      name
    )
  }
})

test('the drawing of the wings shows each wing, and no other', t => {
  const drawn = [...read('docs/drawings/wings.d2').matchAll(/^ {2}\w+: "(\S+?)\/(?=\\n|:)/gm)].map(([, wing]) => wing!)
  const wings = readdirSync(join(root, 'src'), { withFileTypes: true })
    .filter(entry => entry.isDirectory())
    .map(({ name }) => name)
  t.deepEqual(drawn.toSorted(), [...wings, 'native/glue', 'native/waist'].toSorted())
})

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8')
}
