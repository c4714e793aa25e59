import { mkdirSync } from 'node:fs'
import { namesInFolder } from '../../../src/cli/names.ts'
import { ownStorePath, storePath } from '../../../src/cli/store/place.ts'
import { openStore } from '../../../src/store/index.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { test } from '../../helpers/test.ts'

test('the option, PASSFD_STORE, the runtime folder', async t => {
  const folder = temporaryPath('runtime')
  const env = { PASSFD_RUNTIME_DIR: folder }
  t.is(storePath('/a/b', { ...env, PASSFD_STORE: '/c' }), '/a/b')
  t.is(storePath(undefined, { ...env, PASSFD_STORE: '/c/d' }), '/c/d')
  t.is(storePath(undefined, { ...env, PASSFD_STORE: '' }), `${folder}/store.socket`)
  t.is(storePath('x', env), `${process.cwd()}/x`)
  t.is(ownStorePath(undefined, env), `${folder}/store.socket`)
  // It was made, and the store is no server of passfd serve
  await using _ = await openStore(`${folder}/store.socket`, { takeover: true })
  t.deepEqual(namesInFolder({ env }), [])
})

test('the socket of a server of passfd serve is refused', t => {
  const folder = temporaryPath('runtime')
  mkdirSync(folder, { mode: 0o700 })
  const env = { PASSFD_RUNTIME_DIR: folder }
  const error = t.throws(() => ownStorePath(`${folder}/shop.sock`, env))
  t.like(error, { exitCode: 64, message: `${folder}/shop.sock is the socket of a server with the name "shop"` })
  t.is(ownStorePath('/elsewhere/shop.sock', env), '/elsewhere/shop.sock')
})
