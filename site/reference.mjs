/** The reference: a page for each door of package.json, from the doc comments of the sources. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import GithubSlugger from 'github-slugger'
import { Application, Comment } from 'typedoc'

/** The page of the handbook that shows a door in use, from reference/ or reference/passfd/. */
const HANDBOOK = {
  index: ['../readme.md#the-api-at-a-glance', 'the library on one page'],
  datagram: ['../../guide/datagrams.md', 'datagrams, in the guide'],
  memory: ['../../guide/memory.md', 'shared memory, in the guide'],
  prefork: ['../../prefork.md', 'prefork'],
  store: ['../../store.md', 'a store of descriptors'],
  stream: ['../../guide/streams.md', 'raw streams, in the guide'],
  systemd: ['../../systemd.md', 'systemd'],
  takeover: ['../../takeover.md', 'takeover']
}

/** Writes the pages into `to`/reference, which it empties. Returns their titles by their paths below `to`. */
export async function writeReference(root, to) {
  const doors = doorsOf(root)
  const folder = join(to, 'reference')
  rmSync(folder, { recursive: true, force: true })
  const application = await Application.bootstrapWithPlugins({
    entryPoints: doors.map(({ source }) => join(root, source)),
    tsconfig: join(root, 'site/tsconfig.reference.json'),
    basePath: join(root, 'src'),
    plugin: ['typedoc-plugin-markdown'],
    readme: 'none',
    name: 'passfd',
    router: 'module',
    entryFileName: 'index',
    mergeReadme: false,
    hidePageHeader: true,
    hideBreadcrumbs: true,
    hideGroupHeadings: true,
    disableSources: true,
    excludePrivate: true,
    excludeProtected: true,
    excludeInternal: true,
    excludeExternals: true,
    useCodeBlocks: true,
    expandObjects: true,
    parametersFormat: 'table',
    interfacePropertiesFormat: 'table',
    typeAliasPropertiesFormat: 'table',
    enumMembersFormat: 'table',
    propertyMembersFormat: 'table',
    typeDeclarationFormat: 'table',
    sanitizeComments: true,
    validation: { notExported: false, invalidLink: true, notDocumented: false },
    // Comments of Node's, where a class of passfd overrides a method
    externalSymbolLinkMappings: { '@types/node': { '*': '#' } },
    groupOrder: ['Functions', 'Classes', '*'],
    sort: ['kind', 'source-order'],
    kindSortOrder: ['Function', 'Class', 'Interface', 'TypeAlias', 'Variable'],
    logLevel: 'Warn',
    skipErrorChecking: true
  })
  const project = await application.convert()
  if (project === undefined) throw new Error('TypeDoc could not read the sources')
  for (const child of project.children ?? []) {
    const door = doors.find(({ folder }) => folder === child.name)
    if (door === undefined) throw new Error(`TypeDoc calls a door ${child.name}`)
    child.name = door.name
    child.comment = new Comment([{ kind: 'text', text: await introduction(join(root, door.source), door.folder) }])
  }
  application.validate(project)
  mkdirSync(folder, { recursive: true })
  await application.outputs.writeOutput({ name: 'markdown', path: folder }, project)
  if (application.logger.hasErrors()) throw new Error('TypeDoc could not write the reference')
  // A list of the pages, which the sidebar has, too
  rmSync(join(folder, 'index.md'))
  for (const { name } of doors) {
    const file = join(to, `reference/${name}.md`)
    writeFileSync(file, withAnchors(shortened(readFileSync(file, 'utf8'))))
  }
  return doors.map(({ name }) => ({ path: `reference/${name}.md`, title: name }))
}

/** What the declaration above says already, or what only its author needs. */
const LEFT_OUT = /^(Extends|Extended by|Implements|Implementation of|Inherited from|Overrides|Since|Type Parameters)$/
/** Parts of one function or method. */
const PARTS = /^(Parameters|Returns|Throws|Example|Remarks)$/
/** Headings whose content stays, one level higher. */
const LIFTED = /^(Properties|Accessors|Methods|Constructors|Get Signature|Constructor)$/

/**
 * The members of a class stand right under its heading, and sections that repeat a declaration are left out. Codes of errors become
 * code, and so links.
 */
function shortened(page) {
  let isLifted = false
  return page
    .split(/^(?=#+ )/m)
    .map(section => {
      const [, { length: level } = '', title, body] = /^(#+) (.*)\n([\s\S]*)$/.exec(section) ?? []
      if (level === undefined) return section
      if (level <= 2) isLifted = false
      // A type without a link, and without a word about it
      if (LEFT_OUT.test(title) || (title === 'Returns' && /^\s*[^[\n]*\s*(\*\*\*\s*)?$/.test(body))) return ''
      if (level > 2 && LIFTED.test(title)) {
        isLifted = true
        return body.trimStart()
      }
      const shown = PARTS.test(title) ? 4 : isLifted ? Math.min(4, level - 1) : level
      return `${'#'.repeat(shown)} ${title}\n${body}`
    })
    .join('')
    .replace(/^\*\*\*\n/gm, '')
    .split(/^(```[\s\S]*?^```)$/m)
    .map((part, index) =>
      index % 2 === 1 ? part : part.replace(/(?<![`\w])(ERR_PASSFD_[A-Z_]*[A-Z])(?![`\w])/g, '`$1`')
    )
    .join('')
}

/** Links within a page, `[`Name`](#name-2)`, to the heading of that name: TypeDoc numbers them with headings that it has not written. */
function withAnchors(page) {
  const slugger = new GithubSlugger()
  const anchors = new Map([...page.matchAll(/^#+ (.*)$/gm)].map(([, title]) => [title, slugger.slug(title)]))
  return page.replace(/\[`([^`]+)`\]\(#([^)]*)\)/g, (all, name) =>
    anchors.has(name) ? `[\`${name}\`](#${anchors.get(name)})` : all
  )
}

/** What the first comment of a door says, and the page that shows how to use it. */
async function introduction(source, folder) {
  const [, text = ''] = /^\/\*\* (?:passfd\S*: )?([\s\S]*?) ?\*\//.exec(await readFile(source, 'utf8')) ?? []
  const [page, title] = HANDBOOK[folder]
  return `${text[0]?.toUpperCase()}${text.slice(1)} How to use it: [${title}](${page}).`
}

/** As `{ name: 'passfd/prefork', folder: 'prefork', source: 'src/prefork/index.ts' }`. */
function doorsOf(root) {
  const { name: ours, exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  return Object.entries(exports)
    .filter(([, { types }]) => types !== undefined)
    .map(([name, { types }]) => ({
      name: name === '.' ? ours : `${ours}/${name.slice(2)}`,
      folder: name === '.' ? 'index' : name.slice(2),
      source: types.replace('./dist/', 'src/').replace(/\.d\.ts$/, '.ts')
    }))
}
