import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from './helpers/path.ts'
import { start } from './helpers/process.ts'
import { test } from './helpers/test.ts'

test('an opener that is given up at any moment gives back every descriptor and its socket file', async t => {
  const folder = temporaryPath('sockets')
  mkdirSync(folder)
  const fixture = fileURLToPath(new URL('./fixtures/given-up-openers.mjs', import.meta.url))
  const { child, exit } = start(process.execPath, [fixture, folder])
  let output = ''
  child.stdout!.on('data', text => {
    output += text
  })
  t.is((await exit).code, 0)
  const { aborted, problems } = JSON.parse(output)
  t.deepEqual(problems, [])
  t.true(aborted > 60, `${aborted} openers were given up`)
})
