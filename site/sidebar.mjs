/** The groups of the sidebar: which page stands where. Paths are those of the repository. */

/**
 * `pages`: in this order. `folder`: all pages of that folder, those of `first` before the others, which follow by their titles.
 * Every page of docs/ and of the root must be in one group: `groups` throws otherwise.
 */
const GROUPS = [
  { text: 'Start', pages: ['docs/index.md', 'README.md'] },
  {
    text: 'Jobs',
    folder: 'docs/jobs',
    first: [
      'replace',
      'serve',
      'prefork',
      'live',
      'pty',
      'foreign',
      'who',
      'datagrams',
      'systemd',
      'store',
      'memory',
      'language'
    ]
  },
  { text: 'Coming from', folder: 'docs/from' },
  { text: 'Deploy', folder: 'docs/deploy' },
  {
    text: 'Guide',
    pages: [
      'docs/guide.md',
      'docs/guide/descriptors.md',
      'docs/guide/values.md',
      'docs/guide/returned.md',
      'docs/guide/peers.md',
      'docs/guide/connections.md',
      'docs/guide/streams.md',
      'docs/guide/datagrams.md',
      'docs/guide/memory.md',
      'docs/guide/terminals.md',
      'docs/guide/latency.md',
      'docs/guide/context.md'
    ]
  },
  {
    text: 'Prefork',
    pages: [
      'docs/prefork.md',
      'docs/prefork/balance.md',
      'docs/prefork/life.md',
      'docs/prefork/control.md',
      'docs/prefork/outside.md',
      'docs/prefork/programs.md'
    ]
  },
  {
    text: 'Handbook',
    pages: [
      'docs/serve.md',
      'docs/takeover.md',
      'docs/store.md',
      'docs/systemd.md',
      'docs/shell.md',
      'docs/observability.md',
      'docs/testing.md',
      'docs/bundling.md',
      'docs/platforms.md'
    ]
  },
  { text: 'Reference', folder: 'reference', first: ['passfd'] },
  { text: 'Promises', pages: ['docs/errors.md', 'docs/stability.md', 'SECURITY.md', 'CHANGELOG.md'] },
  { text: 'Protocols', pages: ['docs/protocol.md', 'docs/takeover-protocol.md', 'docs/store-protocol.md'] },
  { text: 'Figures', pages: ['docs/performance.md', 'docs/reliability.md'] },
  {
    text: 'For contributors',
    pages: ['CONTRIBUTING.md', 'docs/architecture.md', 'docs/decisions.md', 'docs/dependencies.md']
  }
]

/** `titles`: of all pages of the site, by their paths in the repository. */
export function groups(titles) {
  const left = new Set([...titles.keys()].filter(path => !path.startsWith('files/')))
  const found = GROUPS.map(({ text, pages, folder, first }) => {
    const paths = (pages ?? inFolder(titles, folder, first ?? [])).filter(path => left.delete(path))
    return { text, pages: paths.map(path => ({ path, title: titles.get(path) })) }
  })
  if (left.size > 0) throw new Error(`site/sidebar.mjs: no group for ${[...left].join(', ')}`)
  return found.filter(({ pages }) => pages.length > 0)
}

function inFolder(titles, folder, first) {
  const rank = path => {
    const found = first.findIndex(word => path.slice(folder.length + 1).startsWith(word))
    return found === -1 ? first.length : found
  }
  return [...titles.keys()]
    .filter(path => path.startsWith(`${folder}/`))
    .sort((a, b) => rank(a) - rank(b) || titles.get(a).localeCompare(titles.get(b), 'en'))
}
