/**
 * Copies the pages of the repository into one folder, in the form that the generator reads.
 *
 * The pages link each other, and files beside them, by relative paths: so their links work in a clone and on a forge. On the site docs/ is the
 * root. A link to another file of the repository leads to a page of the site that shows that file.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, extname, join, posix, relative } from 'node:path'

const IMAGES = new Set(['.svg', '.png'])
const LANGUAGES = {
  mjs: 'js',
  cjs: 'js',
  service: 'ini',
  socket: 'ini',
  yml: 'yaml',
  cfg: 'txt',
  conf: 'nginx',
  h: 'c'
}

/**
 * Writes all pages of `root` into `to`. Returns the titles of the pages of docs/ and of the root, by their paths in the repository, and where
 * each page is on the site.
 */
export function writePages(root, to) {
  const tracked = filesOf(root)
  const pages = tracked.filter(path => /^(docs\/.*|[A-Z]+)\.md$/.test(path))
  const titles = new Map()
  const places = new Map(pages.map(path => [path, placeOf(path)]))
  const queue = [...pages]

  /** The place of a file that a page links; its page is written later. */
  const placeOfLinked = path => {
    if (!places.has(path)) {
      places.set(path, IMAGES.has(extname(path)) ? imagePlaceOf(path) : `files/${shown(root, path)}`)
      queue.push(path)
    }
    return places.get(path)
  }

  for (let path = queue.shift(); path !== undefined; path = queue.shift()) {
    const place = places.get(path)
    const file = join(to, place)
    mkdirSync(dirname(file), { recursive: true })
    if (IMAGES.has(extname(path))) copyFileSync(join(root, path), file)
    else if (statSync(join(root, path)).isDirectory()) writeFileSync(file, listing(path, tracked, placeOfLinked, place))
    else if (path.endsWith('.md')) {
      const text = readFileSync(join(root, path), 'utf8')
      const title = /^# (.+)$/m.exec(text)?.[1] ?? path
      if (pages.includes(path)) titles.set(path, title.replaceAll('`', ''))
      const page = withLinks(text, link => linkTo(link, path, place, root, placeOfLinked))
      writeFileSync(file, pages.includes(path) ? page : `---\nsearch: false\n---\n${page}`)
    } else writeFileSync(file, source(path, readFileSync(join(root, path), 'utf8')))
  }
  return { titles, places }
}

/** Also those that are not committed yet; without those that are deleted. */
function filesOf(root) {
  const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 26
  })
  return [...new Set(listed.split('\n'))].filter(path => path !== '' && existsSync(join(root, path)))
}

function placeOf(path) {
  if (path.startsWith('docs/')) return path.slice('docs/'.length)
  return path.toLowerCase()
}

function imagePlaceOf(path) {
  return path.startsWith('docs/') ? path.slice('docs/'.length) : `files/${path}`
}

/** A page for each file, and one for a folder. */
function shown(root, path) {
  if (statSync(join(root, path)).isDirectory()) return `${path}/index.md`
  return path.endsWith('.md') ? path : `${path}.md`
}

/** Changes the targets of links and images, but not in code. */
function withLinks(text, change) {
  let isCode = false
  return text
    .split('\n')
    .map(line => {
      if (/^ *```/.test(line)) {
        isCode = !isCode
        // The highlighter does not know them
        return line.replace(/^```(hex|haproxy)\b/, '```txt')
      }
      if (isCode) return line
      return line.replace(/(`+)(?:(?!\1).)+\1(?!`)|\]\((?!https?:|mailto:)([^)\s]+)\)/g, (all, _code, link) =>
        link === undefined ? all : `](${change(link)})`
      )
    })
    .join('\n')
}

/** A link of the page at `path` in the repository, for its `place` on the site. */
function linkTo(link, path, place, root, placeOfLinked) {
  const [target, anchor] = link.split('#')
  if (target === '') return link
  const linked = posix.join(posix.dirname(path), target).replace(/\/$/, '')
  if (linked.startsWith('..') || !existsSync(join(root, linked))) throw new Error(`${path}: no file at ${target}`)
  const relativeTo = posix.relative(posix.dirname(place), placeOfLinked(linked))
  return `${relativeTo.startsWith('.') ? relativeTo : `./${relativeTo}`}${anchor === undefined ? '' : `#${anchor}`}`
}

/** A page with the text of a file of the repository. */
function source(path, text) {
  const extension = extname(path).slice(1)
  const language = LANGUAGES[extension] ?? (extension === '' ? 'sh' : extension)
  const fence = '`'.repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([{ length }]) => length + 1)))
  return `---\nsearch: false\n---\n# ${path}\n\nThis file is in the repository, at \`${path}\`.\n\n${fence}${language}\n${text.replace(/\n*$/, '\n')}${fence}\n`
}

/** A page with the files of a folder of the repository. */
function listing(path, tracked, placeOfLinked, place) {
  const lines = tracked
    .filter(file => file.startsWith(`${path}/`))
    .sort()
    .map(file => `- [${file}](${posix.relative(posix.dirname(place), placeOfLinked(file))})`)
  return `---\nsearch: false\n---\n# ${path}\n\n${lines.join('\n')}\n`
}

/** All pages below a folder. */
export function pagesBelow(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && entry.name.endsWith('.md'))
    .map(entry => relative(folder, join(entry.parentPath, entry.name)))
}
