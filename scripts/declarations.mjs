/**
 * Leaves in dist/ only the declarations that the doors of package.json need: what is reachable from their exports, statement by statement.
 * Internals then belong to nobody's programs. Relative imports name `.js`, as every TypeScript since 4.7 understands them.
 */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const dist = argv[2] ?? join(root, 'dist')
const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const doors = Object.values(exports).flatMap(({ types }) =>
  types === undefined ? [] : [join(dist, relative('dist', types))]
)

/** What ends with its brace. */
const BLOCK = /^(?:export )?(?:declare )?(?:abstract )?(?:class|interface|namespace|enum)\b/

/** By path: { imports: Map(local, { from, name, type }), statements: [{ names, text, code }] } */
const files = new Map()
const kept = new Set()

function load(path) {
  if (files.has(path)) return files.get(path)
  if (!existsSync(path)) throw new Error(`${relative(dist, path)} is needed, and is not there`)
  const file = { path, imports: new Map(), statements: [], used: new Set() }
  files.set(path, file)
  for (const text of split(readFileSync(path, 'utf8'))) read(file, text)
  return file
}

/** The top-level statements, each with the comments before it. */
function split(source) {
  const statements = []
  let lines = []
  let depth = 0
  let comment = false
  for (const line of source.split('\n')) {
    if (line.startsWith('//# ') || (line === '' && lines.length === 0)) continue
    lines.push(line)
    if (/^\s*\/\*/.test(line)) comment = true
    if (!comment) {
      const code = line.replace(/\/\/.*$|\/\*.*?\*\/|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/g, '')
      for (const character of code) depth += '{(['.includes(character) ? 1 : '})]'.includes(character) ? -1 : 0
      if (depth === 0 && (/;\s*$/.test(code) || (/\}\s*$/.test(code) && lines.some(first => BLOCK.test(first))))) {
        statements.push(lines.join('\n'))
        lines = []
      }
    }
    if (/\*\/\s*$/.test(line)) comment = false
  }
  if (lines.some(line => line.trim() !== '' && !/^\s*[/*]/.test(line)))
    throw new Error(`not understood: ${lines.join('\n')}`)
  return statements
}

function read(file, text) {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, '').trim()
  const target = /from '(\.[^']+)';?$/.exec(code)?.[1]
  const from = target === undefined ? undefined : join(dirname(file.path), target.replace(/\.[jt]s$/, '.d.ts'))
  const head = /^(import|export)\s+(type\s+)?\{([\s\S]*)\}(\s+from\s+'[^']+')?;$/.exec(code)
  if (code === 'export {};') return
  if (head !== null && (from !== undefined || head[1] === 'import')) {
    for (const item of head[3].split(',')) {
      const found = /^\s*(type\s+)?(\w+)(?:\s+as\s+(\w+))?\s*$/.exec(item)
      if (found === null) continue
      const [, , name, local = name] = found
      file.imports.set(local, {
        from,
        name,
        text: item.trim(),
        type: head[2] !== undefined,
        out: head[1] === 'export',
        module: /from '([^']+)'/.exec(code)[1]
      })
    }
    return
  }
  const names = [
    ...code.matchAll(
      /^(?:export )?(?:declare )?(?:abstract )?(?:class|interface|type|function|const|let|namespace|enum) (\w+)/g
    )
  ].map(([, name]) => name)
  const star = /^import (?:type )?(?:(\w+)|\* as (\w+)) from/.exec(code)
  if (star !== null) names.push(star[1] ?? star[2])
  if (names.length === 0) throw new Error(`not understood in ${file.path}: ${code}`)
  file.statements.push({ names, text, code: star === null ? code : '', star: star !== null })
}

function need(path, name) {
  const key = `${path}#${name}`
  if (kept.has(key)) return
  const file = load(path)
  const imported = file.imports.get(name)
  if (imported !== undefined) {
    kept.add(key)
    if (imported.from !== undefined) need(imported.from, imported.name)
    return
  }
  const declarations = file.statements.filter(({ names }) => names.includes(name))
  if (declarations.length === 0) return
  kept.add(key)
  for (const { code } of declarations) for (const [word] of code.matchAll(/\b[A-Za-z_$][\w$]*\b/g)) need(path, word)
}

for (const door of doors)
  for (const name of [...load(door).imports.keys(), ...load(door).statements.flatMap(({ names }) => names)])
    need(door, name)

for (const name of readdirSync(dist, { recursive: true })) {
  if (!/\.d\.ts(\.map)?$/.test(name)) continue
  const path = join(dist, name)
  const file = files.get(path)
  const text = file === undefined || name.endsWith('.map') ? '' : print(file)
  if (text === '') rmSync(path)
  else writeFileSync(path, text)
}

function print(file) {
  const has = name => kept.has(`${file.path}#${name}`)
  const imports = []
  for (const [local, { module, text, type, out }] of file.imports) {
    if (!has(local)) continue
    const where = module.startsWith('.') ? module.replace(/\.ts$/, '.js') : module
    imports.push(`${out ? 'export' : 'import'} ${type ? 'type ' : ''}{ ${text} } from '${where}';`)
  }
  const statements = file.statements.filter(({ names }) => names.some(has)).map(({ text }) => text)
  if (imports.length + statements.length === 0) return ''
  return `${[...imports, ...statements].join('\n')}\nexport {};\n`
}
