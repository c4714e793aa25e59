import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { slug } from 'github-slugger'
import { errorLinks } from './error-links.mjs'

const pages = fileURLToPath(new URL('../.pages/', import.meta.url))
const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
const sidebar = JSON.parse(readFileSync(`${pages}sidebar.json`, 'utf8'))

/** An arrow from one box into another. */
const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path fill="none" stroke="#e8590c" stroke-width="3" d="M3 8h9v16H3zM20 8h9v16h-9zM8 16h15m-4-4 4 4-4 4"/></svg>'

export default {
  title: 'passfd',
  description: 'Open files and sockets, passed between processes that did not fork each other',
  lang: 'en',
  srcDir: '.pages',
  outDir: 'dist',
  cacheDir: '../.cache/vitepress',
  cleanUrls: false,
  // Relative, so that the site works below any path
  base: process.env.PASSFD_SITE_BASE ?? '/',
  head: [['link', { rel: 'icon', href: `data:image/svg+xml,${encodeURIComponent(ICON)}` }]],
  vite: { build: { chunkSizeWarningLimit: 4000 } },
  metaChunk: true,
  markdown: {
    // The anchors of a forge, so that a link with an anchor works in both places
    anchor: { slugify: slug },
    theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' },
    image: { lazyLoading: false },
    config: md => md.use(errorLinks)
  },
  themeConfig: {
    siteTitle: `passfd ${version}`,
    nav: [
      { text: 'Start', link: '/' },
      { text: 'Guide', link: '/guide' },
      { text: 'Reference', link: '/reference/passfd' },
      { text: 'Errors', link: '/errors' }
    ],
    sidebar,
    outline: { level: [2, 3], label: 'On this page' },
    search: {
      provider: 'local',
      options: {
        // The pages get these functions as text
        miniSearch: {
          options: {
            // Next.js and server.mjs are one word each
            tokenize: text => text.match(/[\p{L}\p{N}_$]+(?:\.[cm]?js\b)?/gu) ?? []
          },
          searchOptions: {
            boost: { title: 4, text: 2, titles: 1 },
            // A short word with another letter is another word: core, code
            fuzzy: term => (term.length > 5 ? 0.2 : false),
            prefix: true,
            // Who searches has a job, more often than a question about how passfd is made
            boostDocument: path => {
              if (/\/(jobs|from|deploy)\//.test(path) || /\/#/.test(path)) return 2
              return /\/(architecture|changelog|contributing|decisions|dependencies|performance|reliability|security|files)\b/.test(
                path
              )
                ? 0.4
                : 1
            }
          }
        }
      }
    },
    docFooter: { prev: 'Previous', next: 'Next' },
    externalLinkIcon: true
  }
}
