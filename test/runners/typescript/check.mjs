// Compiles program.ts, which uses everything public, with an old and the newest TypeScript, as strict as it gets and libraries included.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const resolutions = [
  { module: 'nodenext', moduleResolution: 'nodenext' },
  { module: 'esnext', moduleResolution: 'bundler' }
]
const full = process.env.PASSFD_TEST_FULL === '1'
mkdirSync(`${here}node_modules/.configs`, { recursive: true })
let failed = 0
let passed = 0
for (const compiler of ['typescript', 'typescript-newest'])
  for (const resolution of resolutions)
    for (const exactOptionalPropertyTypes of full ? [true, false] : [resolution.module === 'nodenext']) {
      const compilerOptions = {
        ...resolution,
        exactOptionalPropertyTypes,
        target: 'es2022',
        lib: ['es2022', 'esnext.disposable'],
        strict: true,
        noEmit: true,
        skipLibCheck: false,
        types: ['node'],
        typeRoots: [`${here}node_modules/@types`]
      }
      const config = `${here}node_modules/.configs/${compiler}-${resolution.module}-${exactOptionalPropertyTypes}.json`
      writeFileSync(config, JSON.stringify({ compilerOptions, files: [`${here}program.ts`] }))
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
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed
