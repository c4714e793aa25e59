import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EXIT } from '../../src/cli/exit.ts'
import { checkName, defaultName, namesInFolder, runtimeFolder, socketOf, takeoverPathOf } from '../../src/cli/names.ts'
import { test } from '../helpers/test.ts'

const uid = process.geteuid!()

function inFolder(work: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'passfd-names-'))
  try {
    work(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('the runtime folder', t => {
  const place = (env: Record<string, string>, id: number) =>
    runtimeFolder(false, { env, uid: id, temporary: '/no/tmp' })
  t.is(place({}, 0), '/run/passfd')
  t.is(place({ XDG_RUNTIME_DIR: '/no/run' }, 1), '/no/run/passfd')
  t.is(place({}, 1234), '/no/tmp/passfd-1234')
  t.is(place({ XDG_RUNTIME_DIR: '/no/run', PASSFD_RUNTIME_DIR: '/no/own' }, 1), '/no/own')
})

test('it is made for its user alone', t => {
  inFolder(temporary => {
    const made = runtimeFolder(true, { env: { PASSFD_RUNTIME_DIR: join(temporary, 'my', 'own') }, uid })
    t.is(statSync(made).mode & 0o777, 0o700)
    t.is(runtimeFolder(true, { env: { PASSFD_RUNTIME_DIR: made }, uid }), made)
  })
})

test('it is refused if others could answer in it', t => {
  inFolder(temporary => {
    const folder = join(temporary, 'shared')
    const surroundings = { env: { PASSFD_RUNTIME_DIR: folder }, uid }
    const refused = (message: RegExp, id = uid) => {
      const error: any = t.throws(() => runtimeFolder(true, { ...surroundings, uid: id }))
      t.regex(error.message, message)
      t.is(error.exitCode, EXIT.noPermission)
    }
    mkdirSync(folder)
    chmodSync(folder, 0o770)
    refused(/can be written by other users/)
    chmodSync(folder, 0o700)
    refused(/belongs to user/, uid + 1)
    rmSync(folder, { recursive: true })
    symlinkSync('/', folder)
    refused(/is not a folder/)
    rmSync(folder)
    writeFileSync(folder, '')
    refused(/is not a folder/)
    const inFile = { env: { PASSFD_RUNTIME_DIR: join(folder, 'x') }, uid }
    const error: any = t.throws(() => runtimeFolder(true, inFile))
    t.regex(error.message, /can't be made \(ENOTDIR\)/)
    t.is(error.exitCode, EXIT.cantCreate)
    const inProc: any = t.throws(() => runtimeFolder(true, { env: { PASSFD_RUNTIME_DIR: '/proc/none/run' }, uid }))
    t.regex(inProc.message, /can't be made \(ENOENT\)/)
  })
})

test('a name becomes paths in it, a path stays', t => {
  inFolder(folder => {
    const surroundings = { env: { PASSFD_RUNTIME_DIR: folder }, uid }
    t.is(socketOf('app', surroundings), join(folder, 'app.sock'))
    t.is(takeoverPathOf('app', surroundings), join(folder, 'app.takeover'))
    t.is(socketOf('/a/b', surroundings), '/a/b')
    t.is(socketOf('./b', surroundings), join(process.cwd(), 'b'))
    t.deepEqual(namesInFolder(surroundings), [])
    for (const name of ['b.sock', 'a.sock', 'a.takeover', '.sock']) writeFileSync(join(folder, name), '')
    t.deepEqual(namesInFolder(surroundings), ['a', 'b'])
    t.deepEqual(namesInFolder({ env: { PASSFD_RUNTIME_DIR: join(folder, 'none') }, uid }), [])
  })
})

test('names', t => {
  for (const name of ['app', 'my-app_2.0', '_x']) t.is(checkName(name), name)
  for (const name of ['', '.', '..', '.hidden', '-w', 'a b', 'ä', 'a/b', 'a\0b'])
    t.is((t.throws(() => checkName(name)) as any).exitCode, EXIT.usage, name)
})

test('the default name is the package’s without its scope, else the folder’s', t => {
  inFolder(folder => {
    const app = join(folder, 'my app')
    mkdirSync(app)
    t.is(defaultName(app), 'my-app')
    const named = (text: string): string => {
      writeFileSync(join(app, 'package.json'), text)
      return defaultName(app)
    }
    t.is(named('{"name":"@scope/server"}'), 'server')
    t.is(named('{"name":"..odd/name"}'), 'odd-name')
    t.is(named('{"name":7}'), 'my-app')
    t.is(named('{'), 'my-app')
    t.is(named('{"name":"/"}'), 'passfd')
  })
})
