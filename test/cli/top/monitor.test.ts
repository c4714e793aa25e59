/** A supervisor as it is followed: its samples and events, its end, and who takes its place. */
import { once } from 'node:events'
import { Monitor } from '../../../src/cli/top/monitor.ts'
import type { Sample } from '../../../src/cli/top/view.ts'
import type { AdminEvent } from '../../../src/prefork/index.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { light, supervising } from '../../helpers/supervising.ts'
import { test } from '../../helpers/test.ts'

/** The next sample that is like that. */
async function sampleLike(monitor: Monitor, isIt: (sample: Sample) => boolean): Promise<Sample> {
  for (;;) {
    const [sample] = await once(monitor, 'sample')
    if (isIt(sample)) return sample
  }
}

async function following(path: string, body: (monitor: Monitor, events: AdminEvent[]) => Promise<void>): Promise<void> {
  const monitor = new Monitor(path, undefined, 20)
  const events: AdminEvent[] = []
  monitor.on('event', event => events.push(event))
  const done = monitor.run()
  try {
    await body(monitor, events)
  } finally {
    monitor.close()
    await done
  }
}

test('samples, events and commands; the end of a supervisor, and another one at its path', async t => {
  const admin = socketPath()
  const options = { admin, command: [light()] as [string] }
  await following(admin, async (monitor, events) => {
    const [error] = await once(monitor, 'lost')
    t.is(error.code, 'ENOENT')
    let since = 0
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      const sample = await sampleLike(monitor, () => true)
      since = sample.status.since
      t.like(sample.status, { pid: process.pid, size: 1, foreign: true })
      await monitor.command({ command: 'scale', workers: 2 })
      await sampleLike(monitor, ({ status }) => status.workers.length === 2)
      // It may also have heard of the first worker
      t.like(events.findLast(({ event }) => event === 'worker')!.worker, { slot: 1, id: 2, state: 'ready' })
      await t.throwsAsync(monitor.command({ command: 'scale', workers: 0 }), { code: 'ERR_PASSFD_REMOTE' })
      const lost = once(monitor, 'lost')
      await supervisor.stop()
      await lost
      await t.throwsAsync(monitor.command({ command: 'reload' }), { message: 'nobody answers' })
    })
    const replaced = once(monitor, 'replaced')
    await supervising(t, options, async supervisor => {
      await supervisor.start()
      const [before, now] = await replaced
      t.is(before.since, since)
      t.true(now.since > since)
    })
  })
})

test('the successor of a superseded supervisor is followed although that one still answers', async t => {
  const options = { admin: socketPath(), takeover: temporaryPath('takeover') }
  await supervising(t, { ...options, command: [light(), '7', 'deaf'] }, async one => {
    await one.start()
    await following(options.admin, async (monitor, events) => {
      await sampleLike(monitor, ({ status }) => status.size === 1)
      const replaced = once(monitor, 'replaced')
      await supervising(t, { ...options, command: [light()], workers: 2 }, async two => {
        await two.start()
        const [before, now] = await replaced
        t.like([before, now], [{ size: 1 }, { phase: 'running', size: 2 }])
        t.true(events.some(({ event }) => event === 'superseded'))
        await sampleLike(monitor, ({ status }) => status.draining.length === 1)
        t.is(one.phase, 'stopping')
      })
    })
    await one.kill()
  })
})
