/**
 * `npm run docs`: builds the site of docs/ and of the doc comments in site/dist. `npm run docs -- --serve`: serves it on a loopback port, and
 * builds it again when a page changes.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { install } from './install.mjs'

const site = fileURLToPath(new URL('.', import.meta.url))
const root = fileURLToPath(new URL('..', import.meta.url))
/** What VitePress reads. */
const pages = `${site}.pages/`

const { values } = parseArgs({ options: { serve: { type: 'boolean' }, port: { type: 'string', default: '5173' } } })
install()
const { writePages } = await import('./pages.mjs')
const { writeReference } = await import('./reference.mjs')
const { groups } = await import('./sidebar.mjs')

rmSync(pages, { recursive: true, force: true })
const reference = await writeReference(root, pages)
write()
const { build, createServer } = await import('vitepress')
if (values.serve) await serve()
else await build(site)

function write() {
  const { titles, places } = writePages(root, pages)
  for (const { path, title } of reference) {
    titles.set(path, title)
    places.set(path, path)
  }
  const sidebar = groups(titles).map(({ text, pages }) => ({
    text,
    items: pages.map(({ path, title }) => ({ text: nameOf(path, title), link: `/${places.get(path)}` }))
  }))
  writeFileSync(`${pages}sidebar.json`, JSON.stringify(sidebar))
}

/** Names in the sidebar where the title of the page says too little there. */
function nameOf(path, title) {
  if (path === 'README.md') return 'The library on one page'
  // Under the heading "Coming from"
  return path.startsWith('docs/from/') ? title.replace(/^Coming from /, '') : title
}

async function serve() {
  const { watch } = await import('chokidar')
  const server = await createServer(site, { host: '127.0.0.1', port: Number(values.port) })
  await server.listen()
  server.printUrls()
  const sources = ['README.md', 'SECURITY.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs', 'examples']
  watch(
    sources.map(path => `${root}${path}`),
    { ignoreInitial: true, awaitWriteFinish: { stabilityThreshold: 100, pollInterval: 20 } }
  ).on('all', () => {
    try {
      write()
    } catch (error) {
      console.error(error.message)
    }
  })
}
