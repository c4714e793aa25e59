import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { abortError, checked, type ErrorKey, errorCodes, PassfdError, systemError } from '../../src/base/errors.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

/** Something for every {name} in a sentence. */
const anything = new Proxy({}, { get: () => 'X' })
const keys = errorCodes.map(code => code.slice('ERR_PASSFD_'.length)) as ErrorKey[]

test('every code has a heading in docs/errors.md, and every heading a code', t => {
  const text = fs.readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8')
  const headings = [...text.matchAll(/^### (ERR_\w+)$/gm)].map(([, code]) => code!)
  t.deepEqual(headings.toSorted(), errorCodes.toSorted())
  t.is(new Set(headings).size, headings.length)
})

test('every code is used', t => {
  const folder = fileURLToPath(new URL('../../src/', import.meta.url))
  const sources = fs
    .readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts') && name !== 'errors.ts')
    .map(name => fs.readFileSync(`${folder}/${name}`, 'utf8'))
    .join('\n')
  for (const key of keys) t.true(sources.includes(`'${key}'`), key)
})

test('codes are upper case, sentences are sentences', t => {
  for (const key of keys) {
    t.regex(key, /^[A-Z]+(_[A-Z]+)*$/)
    const { message } = new PassfdError(key, anything)
    t.regex(message, /^([A-Z]|close\(|authorize\()[^{}]*[.X?]$/, key)
  }
})

test('what is filled in a sentence stands there as it was given', t => {
  const error = new PassfdError('DESCRIPTOR_KIND', { operation: '{expected} $& $1', expected: 'pipe', actual: 7 })
  t.is(error.message, '{expected} $& $1 needs a descriptor of kind pipe; this one is a 7.')
})

test('a PassfdError is an Error with a code, and what was given with it', t => {
  const bare = new PassfdError('ANSWERED')
  t.true(bare instanceof Error)
  t.is(bare.name, 'PassfdError')
  t.is(bare.code, 'ERR_PASSFD_ANSWERED')
  t.is(bare.message, 'This request was already answered. Call reply() or fail() once.')
  t.is(String(bare), `PassfdError: ${bare.message}`)
  t.true(bare.stack!.startsWith(`PassfdError: ${bare.message}\n`))
  t.true(bare.stack!.includes('errors.test.ts'))
  t.deepEqual(Object.keys(bare), ['code'], 'nothing that it does not have')
  t.false('cause' in bare)
  t.false(inspect(bare).includes('undefined'))
  const cause = new Error('why')
  const remote = { code: 'E', message: 'theirs' }
  const full = new PassfdError('REMOTE', { message: 'theirs' }, { cause, remote, data: 0 })
  t.is(full.cause, cause)
  t.is(full.remote, remote)
  t.is(full.data, 0)
  t.deepEqual(Object.keys(full), ['code', 'remote', 'data'])
})

/** What fails, as Node itself reports it. */
async function nodeError(operation: () => unknown): Promise<NodeJS.ErrnoException> {
  try {
    await operation()
  } catch (error) {
    return error as NodeJS.ErrnoException
  }
  throw new Error('it did not fail')
}

test('a system error has the properties of the one that Node makes of the same failure', async t => {
  const path = temporaryPath('nothing')
  const node = await nodeError(() => once(net.connect(path), 'connect'))
  const ours = systemError(node.errno!, 'connect', path)
  t.deepEqual(Object.entries(ours).sort(), Object.entries(node).sort())
  t.is(ours.name, node.name)
  t.false(ours instanceof PassfdError)
  t.true(ours instanceof Error)
})

test('a system error has the sentence of the one that Node makes of the same failure', async t => {
  for (const [syscall, path, operation] of [
    ['open', temporaryPath('nothing'), (path: string) => fs.openSync(path, 'r')],
    ['open', '/', (path: string) => fs.openSync(path, 'w')],
    ['scandir', '/dev/null', (path: string) => fs.readdirSync(path)]
  ] as const) {
    const node = await nodeError(() => operation(path))
    const ours = systemError(node.errno!, syscall, path)
    t.is(ours.message, node.message)
    t.is(ours.code, node.code!)
  }
  const node = await nodeError(() => fs.closeSync(0x7ffffff))
  const ours = systemError(node.errno!, 'close')
  t.is(ours.message, node.message)
  t.deepEqual({ ...ours }, { ...node }, 'without an address there is no such property')
})

test('an error number that nobody knows has a code all the same', t => {
  const error = systemError(-4000, 'ioctl')
  t.is(error.code, 'E4000')
  t.is(error.errno, -4000)
})

test('checked gives what is no failure and throws what is', t => {
  for (const result of [0, 1, 2 ** 31 - 1]) t.is(checked(result, 'dup'), result)
  const error = t.throws<NodeJS.ErrnoException>(() => checked(-9, 'dup'), { code: 'EBADF' })
  t.is(error!.syscall, 'dup')
  t.false('address' in error!)
  t.is((t.throws(() => checked(-98, 'bind', '/a'), { code: 'EADDRINUSE' }) as any).address, '/a')
})

test("an abort error is Node's own in all that can be seen", async t => {
  for (const reason of [undefined, 'enough', new Error('mine')]) {
    const controller = new AbortController()
    controller.abort(reason)
    const { signal } = controller
    const node = await nodeError(() => turn(undefined, { signal }))
    const ours = abortError(signal) as NodeJS.ErrnoException
    t.is(ours.name, node.name)
    t.is(ours.code, node.code!)
    t.is(ours.message, node.message)
    t.is(ours.cause, node.cause)
  }
})
