// Compiles program.ts, which uses everything public, with an old and the newest TypeScript, as strict as it gets and libraries included.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const resolutions = [
  { module: 'nodenext', moduleResolution: 'nodenext' },
  { module: 'node16', moduleResolution: 'node16' },
  { module: 'esnext', moduleResolution: 'bundler' },
  // Of CommonJS projects; the newest compiler does not have it any more
  { module: 'commonjs', moduleResolution: 'node10', only: 'typescript' },
  // A CommonJS file that requires passfd, which TypeScript knows from 5.8 on
  { module: 'nodenext', moduleResolution: 'nodenext', only: 'typescript-newest', file: 'required.cts' }
]
const full = process.env.PASSFD_TEST_FULL === '1'
mkdirSync(`${here}node_modules/.configs`, { recursive: true })
let failed = 0
let passed = 0
for (const compiler of ['typescript', 'typescript-newest'])
  for (const { only: _, file = 'program.ts', ...resolution } of resolutions.filter(
    ({ only }) => only === undefined || only === compiler
  ))
    for (const exactOptionalPropertyTypes of full ? [true, false] : [resolution.module !== 'esnext']) {
      const compilerOptions = {
        ...resolution,
        exactOptionalPropertyTypes,
        target: 'es2022',
        lib: ['es2022', 'esnext.disposable'],
        strict: true,
        isolatedModules: true,
        noUncheckedIndexedAccess: true,
        noPropertyAccessFromIndexSignature: true,
        noEmit: true,
        skipLibCheck: false,
        types: ['node'],
        typeRoots: [`${here}node_modules/@types`]
      }
      const config = `${here}node_modules/.configs/${compiler}-${file}-${resolution.module}-${exactOptionalPropertyTypes}.json`
      writeFileSync(config, JSON.stringify({ compilerOptions, files: [`${here}${file}`] }))
      try {
        execFileSync(process.execPath, [`${here}node_modules/${compiler}/bin/tsc`, '-p', config], { encoding: 'utf8' })
        passed++
      } catch ({ stdout, message }) {
        // @types/node has errors of its own under some settings
        const ours = (stdout || message)
          .split('\n')
          .filter(line => line.includes('error') && !line.includes('@types/node'))
        if (ours.length === 0 && stdout) passed++
        else failed++
        if (ours.length > 0) console.log(`${config}:\n${ours.join('\n')}`)
      }
    }
for (const name of unused()) {
  failed++
  console.log(`program.ts does not use ${name}`)
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed

/** What the package exports, and each event of an exported interface of events, that the program does not name. */
function unused() {
  const text = path => readFileSync(`${here}node_modules/passfd/${path}`, 'utf8').replace(/\/\*[\s\S]*?\*\//g, '')
  const program = readFileSync(`${here}program.ts`, 'utf8')
  const doors = Object.values(JSON.parse(text('package.json')).exports).flatMap(door => door.types ?? [])
  const missing = []
  for (const door of doors)
    for (const [, names, from] of text(door).matchAll(/export (?:type )?\{([^}]+)\}(?: from '(.+?)\.js')?/g))
      for (const name of names.split(',').map(each =>
        each
          .trim()
          .split(/^type | as /)
          .at(-1)
      )) {
        if (!new RegExp(`\\b(passfd|datagram|memory|prefork|stream|systemd|takeover)\\.${name}\\b`).test(program))
          missing.push(name)
        if (!name.endsWith('Events') || from === undefined) continue
        const file = text(`${door.slice(0, door.lastIndexOf('/'))}/${from}.d.ts`)
        const [, body] = new RegExp(`interface ${name}\\b[^{]*\\{\\n([\\s\\S]*?)\\n\\}`).exec(file)
        for (const [, event] of body.matchAll(/^ {4}(\w+):/gm))
          if (!new RegExp(`\\bon(ce)?\\('${event}'`).test(program)) missing.push(`${name}, '${event}'`)
      }
  return missing
}
