/** The pages of the site, as the generator gets them. CI's long run builds it, and looks at it in a browser: npm run docs:check. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from './helpers/path.ts'
import { test } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
// They are not among what is compiled
const { pagesBelow, writePages } = await load<typeof import('../site/pages.mjs')>('../site/pages.mjs')
const { groups } = await load<typeof import('../site/sidebar.mjs')>('../site/sidebar.mjs')

test('each link between the pages of the site leads to a page, and each image is there', t => {
  const to = temporaryPath('pages')
  const { places } = writePages(root, to)
  t.is(places.get('docs/guide.md'), 'guide.md')
  t.is(places.get('examples/takeover.ts'), 'files/examples/takeover.ts.md')
  const pages = pagesBelow(to)
  t.true(pages.length > 50)
  for (const page of pages) {
    const text = readFileSync(join(to, page), 'utf8').replace(/^(```+)[\s\S]*?^\1$|`[^`\n]*`/gm, '')
    for (const [, target] of text.matchAll(/\]\((\.[^)#\s]*)(?:#[^)]*)?\)/g))
      t.true(existsSync(join(to, dirname(page), target!)), `${target} in ${page}`)
  }
})

test('code on a page stays as it is', t => {
  const to = temporaryPath('pages')
  const { places } = writePages(root, to)
  for (const path of ['README.md', 'docs/guide/values.md', 'docs/prefork.md']) {
    const code = (text: string) => text.match(/^```[\s\S]*?^```$/gm)
    t.deepEqual(
      code(readFileSync(join(to, places.get(path)!), 'utf8')),
      code(readFileSync(join(root, path), 'utf8')),
      path
    )
  }
})

test('each page is in one group of the sidebar', t => {
  const { titles } = writePages(root, temporaryPath('pages'))
  const shown = groups(titles).flatMap(({ pages }) => pages.map(({ path }) => path))
  t.deepEqual(shown.toSorted(), [...titles.keys()].toSorted())
  t.throws(() => groups(new Map([['docs/nowhere.md', 'Nowhere']])), { message: /no group for docs\/nowhere\.md/ })
})

function load<T>(path: string): Promise<T> {
  return import(new URL(path, import.meta.url).href)
}
