/** What a program throws, aborts or gets wrong in the middle of a takeover: each side goes on, and keeps nothing. */
import { readFileSync } from 'node:fs'
import { deferred } from '../../src/base/deferred.ts'
import { listen } from '../../src/channel/server.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'
import { temporaryPath } from '../helpers/path.ts'
import { limitOpenFiles } from '../helpers/process.ts'
import { answerAt, end, first, HTTP, naming, rejects, seated } from '../helpers/seats.ts'
import { openDescriptors, test, until } from '../helpers/test.ts'

/** Calls `body`, and gives what has been thrown into the event loop meanwhile. */
async function thrownIn(body: () => Promise<void>): Promise<string[]> {
  const thrown: string[] = []
  const others = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', error => thrown.push(error.message))
  try {
    await body()
  } finally {
    process.removeAllListeners('uncaughtException')
    for (const other of others) process.on('uncaughtException', other)
  }
  return thrown
}

const throwing = (what: string) => () => {
  throw new Error(what)
}

test('what listeners throw is the program’s, and changes nothing: the state comes back, and the predecessor lets go', async t => {
  const path = temporaryPath('seat')
  const more = { more: { port: 0, host: '127.0.0.1' } }
  const { readable, writable } = Descriptor.pipe()
  const states: unknown[] = [{ what: () => {} }, 1, readable]
  const thawed: unknown[] = []
  const one = await first(path, {
    listeners: { ...HTTP, ...more },
    ready: {
      freeze: () => states[thawed.length],
      thaw: (state: unknown) => {
        thawed.push(state)
        throw new Error('thaw')
      }
    }
  })
  one.seat.on('report', throwing('report')).on('superseded', throwing('superseded'))
  const thrown = await thrownIn(async () => {
    for (const fails of [true, false]) {
      const lost = await seated({ path, listeners: HTTP, drop: ['more'] })
      const inheriting = lost.seat.inherit()
      if (fails) await rejects(t, inheriting, 'ERR_PASSFD_REMOTE')
      else t.is(await inheriting, 1)
      await lost.seat[Symbol.asyncDispose]()
      await until(() => thawed.length === (fails ? 1 : 2), 'the state is back')
      t.is(await answerAt(one.port), 'first')
    }
    const next = await seated({ path })
    next.seat.on('report', throwing('report of the successor')).on('draining', throwing('draining'))
    next.seat.drop('more')
    await next.seat.bind('new', { port: 0, host: '127.0.0.1' })
    await next.seat.listen('http', naming('next'))
    const state = await next.seat.inherit()
    await next.seat.ready()
    ;(state as Descriptor).close()
    await one.seat.ended
    t.true(one.seat.superseded)
    t.true(readable.closed)
    t.is(await answerAt(one.port), 'next')
    await end(next.seat)
  })
  t.deepEqual(thawed, states.slice(0, 2))
  writable.close()
  const count = (what: string): number => thrown.filter(one => one === what).length
  t.deepEqual([count('report'), count('superseded')], [4, 1])
  t.true(count('draining') >= 1)
  t.is(count('report of the successor'), 2)
})

test('a seat that could not commit keeps no copy for a server', async t => {
  const path = temporaryPath('seat')
  const thawed = deferred()
  const one = await first(path, { freezeTimeout: 1, ready: { freeze: () => 7, thaw: () => thawed.resolve() } })
  const before = [openDescriptors().size, native.held()]
  for (const late of [true, false]) {
    const { seat } = await seated({ path, listeners: { ...HTTP, more: { port: 0, host: '127.0.0.1' } } })
    const bad = naming('bad')
    await seat.listen('http', naming('good'))
    await seat.listen('more', bad)
    if (late) {
      await seat.inherit().catch(() => {})
      await thawed.promise
      const error = await t.throwsAsync(seat.ready())
      t.regex((error as NodeJS.ErrnoException).code!, /^ERR_PASSFD_TAKEOVER_(TOO_LATE|OVER)$/)
    } else {
      bad.listen(0, '127.0.0.1').close()
      await rejects(t, seat.ready(), 'ERR_PASSFD_SERVER_CLOSED')
    }
    await until(() => `${[openDescriptors().size, native.held()]}` === `${before}`, 'as many descriptors as before')
    t.is(await answerAt(one.port), 'first')
  }
  await end(one.seat)
})

test('`accepts` that can’t be sent is an error at once, and the program may ask again', async t => {
  const path = temporaryPath('seat')
  const one = await first(path, { ready: { freeze: ({ accepts }: { accepts: unknown }) => accepts } })
  const { seat } = await seated({ path, listeners: HTTP, inheritTimeout: 60_000 })
  await rejects(t, seat.inherit({ accepts: () => {} }), 'ERR_PASSFD_ENCODE')
  t.is(await answerAt(one.port), 'first')
  t.is(await seat.inherit({ accepts: 1 }), 1)
  await seat[Symbol.asyncDispose]()
  await end(one.seat)
})

test('`signal` ends the wait for one’s turn', async t => {
  const path = temporaryPath('seat')
  const [owner, asked, over] = [await listen(path), deferred(), deferred()]
  owner.serve(() => {
    asked.resolve()
    return over.promise
  })
  const stop = new AbortController()
  const waiting = seated({ path, listeners: HTTP, signal: stop.signal })
  await asked.promise
  const began = performance.now()
  stop.abort()
  await rejects(t, waiting, 'ABORT_ERR')
  t.true(performance.now() - began < 9000, 'a candidate connects again after 10 s')
  over.resolve()
  await owner.close()
})

test('a candidate that has no descriptors for an offer says so, and does not ask again and again', async t => {
  const path = temporaryPath('seat')
  const owner = await listen(path, { maxDescriptors: 1 })
  const [limit = ''] = /(?<=^Max open files +)\d+/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  const one = await Descriptor.open('/dev/null')
  // prlimit(1) needs some, too, while those that have arrived are still being closed
  const spare = Array.from({ length: 12 }, () => Descriptor.openSync('/dev/null'))
  let asked = 0
  owner.serve(() => {
    asked++
    limitOpenFiles(process.pid, Math.max(...openDescriptors().keys()) + 20)
    return Array.from({ length: 250 }, () => one.dup())
  })
  const error = await t.throwsAsync(seated({ path, listeners: HTTP, turnTimeout: 60_000 }))
  for (const each of spare) each.close()
  limitOpenFiles(process.pid, Number(limit))
  t.regex(error!.message, /ulimit -n/)
  t.is(asked, 1)
  one.close()
  await owner.close()
})
