import fs from 'node:fs'
import { times } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { asked, localSide, settled, startSide } from '../helpers/takeover.ts'
import { test, testInCi } from '../helpers/test.ts'

testInCi('a process takes over from another one that it knows nothing of, again and again', async t => {
  const path = temporaryPath('seat')
  let owner = startSide(t, path)
  const port = await owner.ask<number>('bind')
  const { ino } = fs.statSync(path)
  for (let generation = 2; generation <= times(3, 5); generation++) {
    const next = startSide(t, path)
    t.deepEqual(await next.ask('apply'), { listeners: 1, generation, predecessor: owner.pid })
    t.deepEqual(await asked(port), [owner.pid, '-'])
    await next.ask('commit')
    t.is(await owner.told('letGo'), owner.pid)
    t.deepEqual(await asked(port), [next.pid, '-'])
    await owner.end()
    owner = next
    t.is(fs.statSync(path).ino, ino)
  }
  await owner.ask('stop')
  await owner.end()
})

test('the state goes along: 2,000 descriptors, and 600 listeners', async t => {
  const path = temporaryPath('seat')
  const owner = localSide(t, path, { state: { count: 7 } })
  const port = await owner.ask<number>('bind', 600, 2000)
  const next = startSide(t, path)
  t.like(await next.ask('apply'), { listeners: 600 })
  t.deepEqual(await asked(port), [owner.pid, '7'])
  t.deepEqual(await next.ask('inherit'), { count: 7, pipes: 2000 })
  await next.ask('commit')
  t.deepEqual(await asked(port), [next.pid, '7'])
  await Promise.all([owner.end(), next.end()])
})

test('a candidate that gives up, and the owner goes on', async t => {
  const path = temporaryPath('seat')
  const owner = startSide(t, path, { state: { count: 1 } })
  const port = await owner.ask<number>('bind')
  const before = await owner.ask<number[]>('open')
  for (const inherit of [false, true]) {
    const next = localSide(t, path)
    await next.ask('apply')
    if (inherit) await next.ask('inherit')
    await next.ask('giveUp')
    t.deepEqual(await owner.told('rollBack'), { frozen: inherit, listens: false })
    t.deepEqual(await asked(port), [owner.pid, '1'])
    await next.end()
  }
  await settled(t, owner, 'open', before)
  await owner.end()
})
