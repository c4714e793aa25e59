/** How the codec is made of msgpackr when passfd is built: scripts/msgpackr.mjs. */
import { execFile } from 'node:child_process'
import * as fs from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import * as imported from 'msgpackr'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { decode, encode, MODES, newCodec } from '../helpers/bodies.ts'
import { closeAll, connected } from '../helpers/channels.ts'
import { startFixture } from '../helpers/process.ts'
import { test, testInCi } from '../helpers/test.ts'

interface Change {
  name: string
  why: string
  find: string | RegExp
  replace: string
  times: number
}

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
const script = await import(pathToFileURL(join(root, 'scripts/msgpackr.mjs')).href)
const change: (source: string, changes: Change[], file: string) => string = script.change
const changed: (from: URL, version: unknown) => Record<string, string> = script.changed
const manifest = JSON.parse(fs.readFileSync(join(root, 'package.json'), 'utf8'))
const theirs = pathToFileURL(join(root, 'node_modules/msgpackr/'))

/** A copy of the installed msgpackr with other sources. */
function otherVersion(edit: (name: string, source: string) => string): URL {
  const folder = fs.mkdtempSync(join(tmpdir(), 'passfd-msgpackr-'))
  process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  for (const name of ['package.json', 'LICENSE', 'pack.js', 'unpack.js'])
    fs.writeFileSync(join(folder, name), edit(name, fs.readFileSync(new URL(name, theirs), 'utf8')))
  return pathToFileURL(`${folder}/`)
}

test('what is in src/ and dist/ is made of the installed version, which is pinned', t => {
  t.regex(manifest.devDependencies.msgpackr, /^\d+\.\d+\.\d+$/)
  for (const [name, content] of Object.entries(changed(theirs, manifest.devDependencies.msgpackr))) {
    for (const folder of ['src', 'dist'])
      t.is(
        fs.readFileSync(join(root, folder, 'codec/msgpackr', name), 'utf8'),
        content,
        `${folder}/codec/msgpackr/${name}`
      )
  }
})

test('a change that matches too often, too seldom or not at all is an error that names it', t => {
  const one = (find: string | RegExp, times: number): Change => ({
    name: 'a test',
    why: '',
    find,
    replace: '[$&]',
    times
  })
  t.is(change('a b a', [one('a', 2)], 'x.js'), '[a] b [a]')
  t.is(change('a b a', [one(/\ba\b/g, 2), one('[a]', 2)], 'x.js'), '[[a]] b [[a]]', 'one after the other')
  for (const [find, times] of [
    ['a', 1],
    ['a', 3],
    ['c', 1],
    [/a|b/g, 2]
  ] as const)
    t.throws(() => change('a b a', [one(find, times)], 'x.js'), {
      message: /x\.js.*"a test" matches \d times instead of/
    })
})

test('every single change must match: without its place there is no build', t => {
  for (const [file, changes] of Object.entries(script.changes as Record<string, Change[]>)) {
    t.true(changes.length > 0)
    t.is(new Set(changes.map(({ name }) => name)).size, changes.length, 'names are unique')
    let source = fs.readFileSync(new URL(file, theirs), 'utf8')
    for (const each of changes) {
      t.true(each.why.length > 0 && each.times > 0, each.name)
      const first = typeof each.find === 'string' ? each.find : new RegExp(each.find.source)
      const without = source.replace(first, 'gone')
      t.not(without, source)
      t.throws(
        () => change(without, [each], file),
        { message: new RegExp(`matches ${each.times - 1} times`) },
        each.name
      )
      source = change(source, [each], file)
    }
  }
})

test('another version than the pinned one, or a range, is an error', t => {
  const version = manifest.devDependencies.msgpackr
  const newer = otherVersion((name, source) => (name === 'package.json' ? source.replace(version, '99.0.0') : source))
  t.throws(() => changed(newer, version), { message: /msgpackr 99\.0\.0 is installed/ })
  t.throws(() => changed(theirs, `^${version}`), { message: /exact version/ })
  t.throws(() => changed(theirs, undefined), { message: /exact version/ })
  const same = otherVersion((name, source) =>
    name === 'unpack.js' ? source.replace('return C1;', 'return null;') : source
  )
  t.throws(() => changed(same, version), { message: /unpack\.js.*"the byte c1 is an error" matches 0 times/ })
})

test('a build with a change that does not match fails, and says which', async t => {
  const folder = fs.mkdtempSync(join(tmpdir(), 'passfd-build-'))
  process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  for (const name of ['scripts', 'src/codec/msgpackr', 'node_modules'])
    fs.mkdirSync(join(folder, name), { recursive: true })
  for (const name of ['package.json', 'scripts/msgpackr.mjs', 'src/codec/msgpackr/pack.d.ts'])
    fs.copyFileSync(join(root, name), join(folder, name))
  fs.cpSync(fileURLToPath(theirs), join(folder, 'node_modules/msgpackr'), { recursive: true })
  const build = () => run(process.execPath, ['scripts/msgpackr.mjs'], { cwd: folder })
  t.deepEqual(await build(), { stdout: '', stderr: '' })
  const made = fs.readdirSync(join(folder, 'dist/codec/msgpackr')).sort()
  t.deepEqual(made, ['LICENSE', 'pack.d.ts', 'pack.js', 'unpack.js'])
  const source = join(folder, 'node_modules/msgpackr/pack.js')
  fs.writeFileSync(source, fs.readFileSync(source, 'utf8').replace('.__keys__', '.__names__'))
  const failure = await t.throwsAsync<Error & { code: number; stderr: string }>(build())
  t.is(failure?.code, 1)
  t.regex(
    failure!.stderr,
    /^msgpackr's pack\.js can't be changed: "the end of a shape .*" matches 7 times instead of 8/
  )
})

/** Sends values of each kind over a channel, often enough for compiled readers; prints what came. */
const PROGRAM = `
  const [left, end] = pair()
  connect(end).then(async right => {
    right.serve(({ value }) => ({ ...value, text: value.text + '!', map: value.map.get('key') }))
    for (let n = 0; n < 50; n++) {
      const value = { n, text: 'é'.repeat(n), map: new Map([['key', [{ a: 1, 'not a name': 2n }, new Date(5)]]]), odd: { __keys__: 1 } }
      deepStrictEqual(await left.request(value), { ...value, text: value.text + '!', map: value.map.get('key') })
    }
    const { file } = await left.request({ text: '', map: new Map(), file: Descriptor.openSync('/etc/hostname') }, { descriptors: 1 })
    const { kind } = file
    file.close()
    await Promise.all([left.close(), right.close()])
    console.log(kind)
  })`

test('where code must not be made of strings, records are read without a compiled reader', async t => {
  const source = `
    import { deepStrictEqual, throws } from 'node:assert'
    import { connect, Descriptor, pair } from ${JSON.stringify(pathToFileURL(join(root, 'dist/index.js')).href)}
    throws(() => new Function('1'))
    ${PROGRAM}`
  const flags = ['--disallow-code-generation-from-strings', '--input-type=module', '--eval']
  t.deepEqual(await run(process.execPath, [...flags, source]), { stdout: 'file\n', stderr: '' })
})

testInCi('a bundler follows it: a program bundled into one file encodes and decodes', async t => {
  const folder = fs.mkdtempSync(join(tmpdir(), 'passfd-bundle-'))
  process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  const input = join(folder, 'program.mjs')
  fs.writeFileSync(
    input,
    `import { deepStrictEqual } from 'node:assert'
    import { connect, Descriptor, pair } from ${JSON.stringify(join(root, 'dist/index.js'))}
    ${PROGRAM}`
  )
  const output = join(folder, 'bundle.mjs')
  const metafile = join(folder, 'metafile.json')
  // `bindings` is CommonJS, and looks at the stack for the place of its caller
  const banner = `import { createRequire } from 'node:module'; const require = createRequire(import.meta.url); const __filename = ${JSON.stringify(output)}`
  const flags = ['--bundle', '--minify', '--platform=node', '--format=esm', '--log-level=warning']
  const { stderr } = await run(join(root, 'node_modules/.bin/esbuild'), [
    input,
    ...flags,
    `--banner:js=${banner}`,
    `--outfile=${output}`,
    `--metafile=${metafile}`
  ])
  t.is(stderr, '', 'no warnings')
  const bundled = Object.keys(JSON.parse(fs.readFileSync(metafile, 'utf8')).inputs)
  t.true(bundled.some(name => name.endsWith('dist/codec/msgpackr/unpack.js')))
  t.false(bundled.some(name => name.includes('node_modules/msgpackr')))
  const shim = join(root, 'native/build/Release/passfd.node')
  const { stdout } = await run(process.execPath, [output], { cwd: folder, env: { ...process.env, PASSFD_SHIM: shim } })
  t.is(stdout, 'file\n')
})

// --- trap 40

const require = createRequire(import.meta.url)
const required = require('msgpackr') as typeof imported
const THEIRS = [
  ['import', imported],
  ['require', required]
] as const

/** Another user of msgpackr, with habits of their own. */
class Foreign {
  readonly value: unknown
  constructor(value: unknown) {
    this.value = value
  }
}

for (const [how, module] of THEIRS) {
  test(`trap 40: another user of msgpackr (${how}) and we don't see each other`, t => {
    // They use our number for something else, and a buffer of their own
    module.addExtension({
      Class: Foreign,
      type: 70,
      pack: () => Buffer.from([1, 2]),
      unpack: () => new Foreign('theirs')
    } as never)
    const packr = new module.Packr({ structures: [] } as never)
    const buffer = Buffer.alloc(8192)
    ;(packr as unknown as { useBuffer(buffer: Buffer): void }).useBuffer(buffer)
    const theirValue = { foreign: new Foreign(1), list: [{ x: 1 }, { x: 2 }], text: 'theirs' }
    const check = (): void => {
      const packed = packr.pack(theirValue)
      const unpacked = packr.unpack(packed) as typeof theirValue
      t.true(unpacked.foreign instanceof Foreign)
      t.deepEqual(unpacked.list, theirValue.list)
      t.deepEqual(module.unpack(module.pack(theirValue.list)), theirValue.list)
    }
    const descriptor = Descriptor.openSync('/dev/null')
    for (const mode of MODES) {
      const sender = newCodec(true)
      const receiver = newCodec(true)
      const slab = Buffer.alloc(65536)
      for (let i = 0; i < 20; i++) {
        check()
        // Between our calls, and inside one
        const value = {
          i,
          file: descriptor,
          get inside() {
            check()
            return 'inside'
          },
          toJSON: undefined
        }
        const body = encode(sender, mode, value, slab, i * 100)
        const packed = packr.pack(theirValue) // must not land in our slab
        t.is(packed.buffer === slab.buffer, false)
        check()
        const { file, ...rest } = decode(receiver, body) as typeof value
        t.is(file, descriptor)
        t.deepEqual(rest as unknown, { i, inside: 'inside', toJSON: mode === 'plain' ? null : undefined })
      }
    }
    // Our Descriptor means nothing to them, theirs nothing to us
    t.throws(() => module.pack({ descriptor }), { code: 'ERR_PASSFD_ENCODE' })
    descriptor.close()
    const codec = newCodec(true)
    t.deepEqual(decode(codec, encode(codec, 'streamed', new Foreign(1))), { value: 1 })
  })
}

test('trap 40: a program that loaded msgpackr before us keeps its own', async t => {
  const { line, exit } = startFixture('msgpackr-first')
  t.deepEqual(JSON.parse(await line()), {
    same: true,
    theirs: 'theirs',
    ours: 'file',
    message: { a: 1, list: [{ b: 2 }] }
  })
  t.is((await exit).code, 0)
})

test('trap 40: what was queued is not packed over, whoever packs before it leaves', async t => {
  const [left, right] = await connected()
  const values = Array.from({ length: 50 }, (_, i) => ({ number: i, text: `message ${i}`, [`only${i % 40}`]: i }))
  const received: unknown[] = []
  const all = new Promise<void>(resolve => {
    right.on('message', ({ value }) => {
      received.push(value)
      if (received.length === values.length) resolve()
    })
  })
  for (const value of values) {
    void left.send(value)
    for (const [, module] of THEIRS) module.pack({ overwrites: 'x'.repeat(100), list: Array(50).fill({ y: 1 }) })
  }
  await all
  t.deepEqual(received, values)
  await closeAll(left, right)
})
