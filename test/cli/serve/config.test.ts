import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { EXIT } from '../../../src/cli/exit.ts'
import { loadConfiguration, nameHere } from '../../../src/cli/serve/config.ts'
import { start } from '../../helpers/process.ts'
import { test, testInCi } from '../../helpers/test.ts'

async function inFolder(files: Record<string, string>, work: (folder: string) => unknown): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-config-'))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
  try {
    await work(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const OF_PACKAGE = '{"name":"@x/app","passfd":{"workers":3,"name":"shop"}}'

test('files go before package.json, and their formats are Node’s', async t => {
  await inFolder({}, async folder => t.deepEqual(await loadConfiguration(folder), {}))
  const files: Record<string, string> = {
    'passfd.config.js': 'module.exports = { workers: 1 }',
    'passfd.config.mjs': 'export default { workers: 1 }',
    'passfd.config.cjs': 'module.exports = { workers: 1 }',
    'passfd.config.json': '{"workers":1}'
  }
  for (const [name, text] of Object.entries(files))
    await inFolder({ [name]: text, 'package.json': OF_PACKAGE }, async folder =>
      t.deepEqual(await loadConfiguration(folder), { workers: 1 }, name)
    )
  await inFolder({ 'package.json': OF_PACKAGE }, async folder => {
    t.deepEqual(await loadConfiguration(folder), { workers: 3, name: 'shop' })
    t.is(await nameHere(folder), 'shop')
  })
  await inFolder({ 'package.json': '{"name":"@x/app"}' }, async folder => t.is(await nameHere(folder), 'app'))
})

test('package.json may be anything, and begin with a byte order mark', async t => {
  for (const text of ['null', '7', '[]', '"text"'])
    await inFolder({ 'package.json': text }, async folder => t.deepEqual(await loadConfiguration(folder), {}, text))
  await inFolder({ 'package.json': `\ufeff${OF_PACKAGE}` }, async folder =>
    t.deepEqual(await loadConfiguration(folder), { workers: 3, name: 'shop' })
  )
  await inFolder({ 'passfd.config.json': '\ufeff{"workers":2}' }, async folder =>
    t.deepEqual(await loadConfiguration(folder), { workers: 2 })
  )
})

test('a file may be named; its paths start at its folder', async t => {
  await inFolder({ 'other.json': '{"cwd":"current","envFile":[".env","/etc/env"]}' }, async folder => {
    t.deepEqual(await loadConfiguration('/', join(folder, 'other.json')), {
      cwd: join(folder, 'current'),
      envFile: [join(folder, '.env'), '/etc/env']
    })
    const error: any = await t.throwsAsync(loadConfiguration(folder, 'none.json'))
    t.is(error.exitCode, EXIT.noInput)
  })
})

test('a value that is no JSON is shown in the error', async t => {
  await inFolder({ 'passfd.config.mjs': 'export default { workers: 1n }' }, async folder => {
    const error: any = await t.throwsAsync(loadConfiguration(folder))
    t.regex(error.message, /^workers in passfd\.config\.mjs must be .*; it is 1n$/)
  })
})

test('an unknown key is an error that names the nearest one', async t => {
  await inFolder({ 'passfd.config.json': '{"maxRSS":1}' }, async folder => {
    const error: any = await t.throwsAsync(loadConfiguration(folder))
    t.is(error.exitCode, EXIT.config)
    t.is(error.message, "passfd.config.json has the unknown option 'maxRSS': did you mean 'maxRss'?")
  })
  for (const key of ['takeover', 'config'])
    await inFolder({ 'package.json': `{"passfd":{"${key}":true}}` }, async folder => {
      const error: any = await t.throwsAsync(loadConfiguration(folder))
      t.regex(error.message, /^"passfd" in package\.json has the unknown option/)
    })
})

test('one that can’t be loaded is an error', async t => {
  for (const files of [
    { 'passfd.config.json': '{' },
    { 'passfd.config.mjs': 'throw new Error("no")' },
    { 'passfd.config.mjs': 'export const workers = 1' },
    { 'passfd.config.mjs': 'throw null' },
    { 'passfd.config.mjs': 'throw { toString() { throw 1 } }' },
    { 'passfd.config.mjs': 'export default { workers: 1n }' },
    { 'passfd.config.mjs': 'export default { workers: Symbol() }' },
    { 'passfd.config.mjs': 'const own = {}; own.own = own; export default { name: own }' },
    { 'passfd.config.mjs': 'export default { get workers() { throw new Error("no") } }' },
    { 'package.json': '{' },
    { 'package.json': '{"passfd":[]}' }
  ])
    await inFolder(files as Record<string, string>, async folder => {
      const error: any = await t.throwsAsync(loadConfiguration(folder))
      t.is(error.exitCode, EXIT.config, JSON.stringify(files))
      t.notRegex(error.message, /not defined|undefined \(/)
    })
})

testInCi('one that awaits what never comes is an error, and not a silent end', async t => {
  await inFolder({ 'passfd.config.mjs': 'await new Promise(() => {})\nexport default {}' }, async folder => {
    const passfd = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
    const { exit } = start(process.execPath, [passfd, 'status'], { cwd: folder })
    const { code, stderr } = await exit
    t.is(code, EXIT.config)
    t.regex(stderr, /passfd\.config\.mjs can't be loaded: it awaits what never comes\.\n$/)
  })
})
