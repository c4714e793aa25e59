import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PassfdError } from '../../src/base/errors.ts'
import { madeElsewhere, mark } from '../../src/base/package-copy.ts'
import { version } from '../../src/base/version.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { built, copyPackage } from '../helpers/copies.ts'
import { isFull, times } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { testInCi } from '../helpers/test.ts'

const run = promisify(execFile)
const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const shim = fileURLToPath(new URL('../../native/build/Release/passfd.node', import.meta.url))

async function program(name: string, args: string[], flags: string[] = []): Promise<any> {
  const { stdout } = await run(process.execPath, ['--no-warnings', ...flags, fixture(name), ...args])
  return JSON.parse(stdout)
}

const talked = { kinds: ['file', 'directory'], left: 0 }
const sameShim = { ...talked, refusedTwice: 'ERR_PASSFD_DESCRIPTOR_OWNED' }

for (const how of isFull ? (['hard', 'symbolic'] as const) : (['symbolic'] as const))
  testInCi(
    `two copies that share the shim by a ${how} link talk, also in worker threads, and don't own a number twice`,
    async t => {
      // Bundled: six evaluations of it are loaded
      const kind = isFull ? 'dist' : 'build/dist'
      const [one, other] = [copyPackage(how, undefined, kind), copyPackage(how, undefined, kind)]
      const told = await program('copies.mjs', [one.url, other.url, 'workers'])
      t.deepEqual(told, { different: true, ...sameShim, workers: [sameShim, sameShim] })
    }
  )

testInCi('two copies with a shim of their own talk', async t => {
  t.deepEqual(await program('copies.mjs', [built, copyPackage('copy').url, 'separate']), { different: true, ...talked })
})

testInCi('a module and a copy by require() talk', async t => {
  const { folder } = copyPackage('hard')
  t.like(await program('copies.mjs', [built, `require:${join(folder, 'dist/index.js')}`]), {
    different: true,
    ...talked
  })
})

testInCi(
  'realms that go leave no descriptor open; a channel of one that the program keeps nothing of goes on',
  async t => {
    const rounds = times(2, 20)
    const flags = ['--experimental-vm-modules', '--expose-gc']
    const { kinds, ...told } = await program('realms.mjs', [built, String(rounds), socketPath()], flags)
    t.deepEqual(kinds, new Array(rounds).fill('file'))
    t.deepEqual(told, { opened: 5 * rounds, files: 0, served: 'directory' })
  }
)

testInCi(
  'an environment that nobody can reach is ended; a function, a watcher and a batch to be reported keep one',
  async t => {
    const told = await program('binding-collected.mjs', [shim], ['--expose-gc'])
    t.deepEqual(told, { leftOpen: 0, heldByFunction: 3, events: [1, 16], afterwards: false })
  }
)

testInCi(
  'wherever an object of another copy is given, the error says whose it is and where both are; it stays open',
  async t => {
    const other = copyPackage('copy', '9.8.7')
    const { told, open } = await program('strangers.mjs', [built, other.url])
    t.true(open)
    t.true(Object.keys(told).length >= 21)
    for (const [name, { code, message }] of Object.entries<{ code: string; message: string }>(told)) {
      t.regex(code, /^ERR_PASSFD_(ENCODE|INVALID_ARGUMENT|DESCRIPTOR_SOURCE|CONNECTION_SOURCE|REMOTE)$/, name)
      t.true(message.includes('another copy of passfd'), `${name}: ${message}`)
      if (code === 'ERR_PASSFD_REMOTE') {
        // A peer is not to learn paths of this host
        t.true(message.includes(`that is version 9.8.7, this one version ${version}`), `${name}: ${message}`)
        t.false(message.includes(other.folder), `${name}: ${message}`)
        t.false(message.includes(fileURLToPath(new URL('../..', import.meta.url))), `${name}: ${message}`)
        continue
      }
      t.true(message.includes(`9.8.7 in ${other.folder}`), `${name}: ${message}`)
      t.true(
        message.includes(`version ${version} in ${fileURLToPath(new URL('../..', import.meta.url))}`),
        `${name}: ${message}`
      )
    }
  }
)

testInCi('what this copy has made is none of another, nor is anything that no copy has made', t => {
  const file = Descriptor.openSync('/etc/hostname')
  const trap = new Proxy(
    {},
    {
      get: () => {
        throw new Error('a trap')
      }
    }
  )
  for (const value of [
    file,
    new PassfdError('CLOSED'),
    Descriptor,
    {},
    null,
    undefined,
    1,
    'text',
    Object.create(null),
    trap
  ])
    t.is(madeElsewhere(value), undefined)
  file.close()
})

testInCi('an evaluation of the same copy is called that', t => {
  class Mine {}
  mark(Mine, 'Descriptor')
  const [symbol] = Object.getOwnPropertySymbols(Mine.prototype)
  t.is(symbol, Symbol.for('passfd.copy'))
  const copy = { ...(Mine.prototype as any)[symbol!] }
  t.deepEqual(Object.keys(copy), ['class', 'version', 'url'])
  const told = madeElsewhere({ [symbol!]: copy })
  t.is(told?.what, 'Descriptor')
  t.regex(told!.by, /^another evaluation of passfd .+, which this process has loaded more than once$/)
})
