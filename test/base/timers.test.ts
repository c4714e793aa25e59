import { mkdirSync } from 'node:fs'
import { temporaryPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

test('timers that are numbers, and no setImmediate, as under jsdom', async t => {
  const folder = temporaryPath('window')
  mkdirSync(folder)
  const running = startFixture('window-timers', [folder])
  const told = running.line().catch(() => '{}')
  const { code, stderr } = await running.exit
  t.is(stderr, '')
  t.is(code, 0)
  t.deepEqual(JSON.parse(await told), {
    answer: 'device',
    timeout: 'ERR_PASSFD_TIMEOUT',
    datagrams: 300,
    stream: 'device'
  })
})
