// In CI only: it compiles a shim.
import { execFileSync } from 'node:child_process'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Spoiled, tryOne, withLibrary } from '../../../attack/faults/attack.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { testInCi } from '../../helpers/test.ts'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const BUILDER = pathToFileURL(join(ROOT, 'scripts/build-native.mjs')).href

interface Mutant {
  file: string
  right: string
  wrong: string
  /** By whose failure the attack finds it, and what it reports. */
  variant: string
  call: string
  found: RegExp
}

const MUTANTS: Mutant[] = [
  {
    file: 'memory.c',
    right: '\tos_close(fd);\n\treturn error;',
    wrong: '\treturn error;',
    variant: 'memfd',
    call: 'ftruncate',
    found: /near leaves open /
  },
  {
    file: 'os.c',
    right: 'return outcome(pipe2(ends, O_CLOEXEC));',
    wrong: 'return pipe2(ends, O_CLOEXEC) < 0 ? -EIO : 0;',
    variant: 'pipe',
    call: 'pipe2',
    found: /pipe fails with EIO/
  }
]

testInCi('the attack finds a shim that leaks a descriptor, and one that reports another error', async t => {
  const native = temporaryPath('passfd-native')
  cpSync(join(ROOT, 'native'), native, {
    recursive: true,
    filter: path => !path.startsWith(join(ROOT, 'native/build'))
  })
  for (const { file, right, wrong } of MUTANTS) {
    const path = join(native, 'waist', file)
    const source = readFileSync(path, 'utf8')
    t.true(source.includes(right), file)
    writeFileSync(path, source.replace(right, wrong))
  }
  const build = `import { buildShim } from '${BUILDER}'; process.stdout.write(buildShim('${native}'))`
  const shim = execFileSync(process.execPath, ['--input-type=module', '-e', build], { encoding: 'utf8' })
  const found: string[] = []
  await withLibrary(async library => {
    const pair = new Spoiled('shim', library, { PASSFD_SHIM: shim, PATIENCE: '10000' })
    try {
      await pair.start()
      const all = await pair.faults()
      for (const { variant, call } of MUTANTS) {
        const fault = all.find(each => each.variant === variant && each.name === call)!
        await tryOne(pair, fault, { tell: () => {}, found: each => found.push(each) })
      }
    } finally {
      await pair.close()
    }
  })
  t.is(found.length, MUTANTS.length, found.join('\n'))
  for (const [at, mutant] of MUTANTS.entries()) t.regex(found[at]!, mutant.found)
})
