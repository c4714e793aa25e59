/** The graceful end of a process: the order of its parts, its limits and its status. */
import { once } from 'node:events'
import { deferred } from '../../src/base/deferred.ts'
import { type EndLimits, GracefulEnd } from '../../src/serving/graceful-end.ts'
import type { ServedListeners } from '../../src/serving/served-listeners.ts'
import { test } from '../helpers/test.ts'

const NONE: EndLimits = { idleGrace: 0, stopTimeout: 0, killTimeout: 60_000, lameDuck: 0 }

/** A graceful end of one server, which is drained when the test says so, and everything that it does. */
function ending(limits: Partial<EndLimits> = {}) {
  const did: string[] = []
  const exits: (number | string)[] = []
  const left = deferred()
  const requestsDone = deferred()
  const drained = deferred()
  const say = (what: string) => (): void => void did.push(what)
  const intake = {
    connections: 2,
    requests: 3,
    requestsDone: requestsDone.promise,
    destroyAll: () => {
      did.push('destroyAll')
      requestsDone.resolve()
      drained.resolve()
    },
    drain: ({ idleGrace }: { idleGrace: number }) => {
      did.push(`drain ${idleGrace}`)
      return drained.promise
    }
  }
  const listeners = {
    requests: 6,
    intakes: [intake, { ...intake, destroyAll: () => {}, drain: async () => {} }],
    drain: (options: { idleGrace: number }) => [intake.drain(options)],
    beginStop: say('beginStop'),
    cutOff: say('cutOff'),
    end: async (last: boolean | Promise<boolean>, alone: readonly string[] = []) =>
      void did.push(`end ${await last} ${alone}`)
  }
  const end = new GracefulEnd(
    listeners as unknown as ServedListeners,
    { ...NONE, ...limits },
    {
      leave: async () => void did.push('leave'),
      exit: code => {
        exits.push(code)
        left.resolve()
      }
    }
  )
  end.signal.addEventListener('abort', say('signal'))
  end.lameDuck.addEventListener('abort', say('lameDuck'))
  return { end, did, exits, left: left.promise, requestsDone, drained }
}

test('it stops accepting, finishes requests, runs handlers, drains, leaves and exits, once', async t => {
  const { end, did, exits, requestsDone, drained } = ending({ idleGrace: 7 })
  t.deepEqual([end.connections, end.requests, end.begun], [4, 6, false])
  const handled = deferred()
  end.onStop(({ signal }) => {
    did.push(`handler ${signal.aborted}`)
    handled.resolve()
  })
  let again: Promise<void> | undefined
  end.signal.addEventListener('abort', () => {
    again = end.begin({ last: true })
  })
  const ended = end.begin({ last: async () => true, alone: () => ['a', 'b'] })
  t.is(again, ended)
  t.true(end.begun)
  requestsDone.resolve()
  await handled.promise
  t.deepEqual(did, ['beginStop', 'lameDuck', 'signal', 'end true a,b', 'drain 7', 'handler false'])
  drained.resolve()
  await ended
  t.deepEqual(did.splice(6), ['destroyAll', 'leave'])
  t.deepEqual(exits, [0])
})

test('it says that it takes no more before it waits for work that may give it connections', async t => {
  const { end, did, requestsDone, drained } = ending()
  const work = deferred()
  const asked = deferred()
  end.waitFor(work.promise)
  const ended = end.begin({
    last: async () => {
      did.push('asked')
      asked.resolve()
      return false
    }
  })
  await asked.promise
  t.deepEqual(did, ['beginStop', 'lameDuck', 'signal', 'asked'])
  work.resolve()
  requestsDone.resolve()
  drained.resolve()
  await ended
  t.deepEqual(did.slice(4, 6), ['end false ', 'drain 0'])
})

test('the time of the lame duck: it serves on until that is over, or cut short; not if it is superseded', async t => {
  for (const cut of ['hurry', 'endLameDuck'] as const) {
    const { end, did, drained, requestsDone, exits } = ending({ lameDuck: 60_000 })
    end[cut]() // before it has begun it is no lame duck
    t.deepEqual(did.splice(0), cut === 'hurry' ? ['cutOff'] : [])
    if (cut === 'hurry') continue
    const ended = end.begin({ last: false })
    t.true(end.lameDuck.aborted)
    t.false(end.signal.aborted)
    t.deepEqual(did.splice(0), ['beginStop', 'lameDuck'])
    end[cut]()
    await once(end.signal, 'abort')
    requestsDone.resolve()
    drained.resolve()
    await ended
    t.deepEqual(exits, [0])
  }
  const { end, drained, requestsDone } = ending({ lameDuck: 60_000 })
  const ended = end.begin({ last: false, atOnce: true })
  t.true(end.signal.aborted)
  requestsDone.resolve()
  drained.resolve()
  await ended
})

test('a second hurry cuts off what is left, and so does stopTimeout: the status is 1', async t => {
  {
    const { end, did, exits } = ending({ lameDuck: 60_000, killTimeout: 1 })
    const ended = end.begin({ last: false })
    end.hurry()
    await once(end.signal, 'abort')
    t.false(did.includes('cutOff'))
    end.hurry()
    t.true(did.includes('cutOff'))
    await ended
    t.deepEqual([...new Set(exits)], [1]) // by killTimeout and by its end
  }
  const { end, did, exits, left } = ending({ stopTimeout: 1, killTimeout: 1 })
  let seen: AbortSignal | undefined
  end.onStop(({ signal }) => {
    seen = signal
    return new Promise(() => {}) // for ever
  })
  void end.begin({ last: false })
  await left
  t.deepEqual(exits, [1])
  t.true(seen?.aborted)
  t.false(did.includes('leave'))
})

test('the status: 1 if a handler has failed, else the program’s own', async t => {
  const own = process.exitCode
  try {
    for (const [fails, code, expected] of [
      [false, undefined, 0],
      [false, 3, 3],
      [true, 3, 1]
    ] as const) {
      process.exitCode = code
      const { end, exits, drained, requestsDone } = ending()
      if (fails) end.onStop(() => Promise.reject(new Error('cannot')))
      requestsDone.resolve()
      drained.resolve()
      const warnings = process.listeners('warning')
      if (fails) process.removeAllListeners('warning')
      const warned = fails ? once(process, 'warning') : undefined
      await end.begin({ last: false })
      const [warning] = (await warned) ?? []
      for (const listener of warnings) if (fails) process.on('warning', listener)
      t.is(warning?.code, fails ? 'ERR_PASSFD_STOP_HANDLER' : undefined)
      t.deepEqual(exits, [expected])
    }
  } finally {
    process.exitCode = own
  }
})
