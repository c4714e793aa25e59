/** What a supervisor tells its service manager; test/systemd/manager.test.ts has a real one. */
import { bind, type DatagramSocket } from '../../../src/datagram/index.ts'
import { socketPath } from '../../helpers/path.ts'
import { program, supervising, WAITS } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

/** A manager that keeps what it hears, and closes descriptors at once, as systemd does. */
async function managed(work: (heard: string[]) => Promise<void>): Promise<void> {
  const path = socketPath()
  const socket: DatagramSocket = await bind(path)
  const heard: string[] = []
  socket.on('message', ({ data }) => heard.push(Buffer.from(data).toString()))
  process.env.NOTIFY_SOCKET = path
  try {
    await work(heard)
  } finally {
    delete process.env.NOTIFY_SOCKET
    await socket.close()
  }
}

const without = (heard: readonly string[], ...names: string[]): string[] =>
  heard.filter(text => !names.some(name => text.startsWith(name))).map(text => text.replace(/MONOTONIC_USEC=\d+\n/, ''))

test('start, a reload, one that fails, the stop: each with its end', t =>
  managed(async heard => {
    const path = program(WAITS)
    await supervising(t, { entry: path, workers: 1 }, async supervisor => {
      const running = supervisor.run({ signals: false })
      await until(() => heard.includes('READY=1\nSTATUS=1 of 1 workers ready'), 'the start')
      t.regex(heard[0]!, /^EXTEND_TIMEOUT_USEC=30000000$/)
      await supervisor.reload()
      await until(() => heard.filter(text => text.startsWith('READY=1')).length === 2, 'the reload')
      program('process.exit(3)', path)
      await t.throwsAsync(supervisor.reload(), { code: 'ERR_PASSFD_WORKER_NOT_READY' })
      await until(() => heard.filter(text => text.startsWith('READY=1')).length === 3, 'the end of the failed reload')
      await supervisor.stop()
      await running
    })
    const reload = ['RELOADING=1\nSTATUS=1 of 1 workers ready, reloading', 'READY=1\nSTATUS=1 of 1 workers ready']
    t.deepEqual(without(heard, 'EXTEND', 'BARRIER', 'STATUS'), [
      'READY=1\nSTATUS=1 of 1 workers ready',
      ...reload,
      ...reload,
      'STOPPING=1\nSTATUS=1 of 1 workers ready, stopping'
    ])
    t.is(heard.at(-1), 'BARRIER=1', 'this process may end')
  }))

test('run() after start() says at once that it is ready; a lame duck has a status, and more time', t =>
  managed(async heard => {
    await supervising(t, { entry: program(WAITS), workers: 1, lameDuck: 60_000 }, async supervisor => {
      await supervisor.start()
      t.deepEqual(heard, [])
      const running = supervisor.run({ signals: false })
      await until(() => heard.includes('READY=1\nSTATUS=1 of 1 workers ready'), 'that it is ready')
      const before = heard.length
      void supervisor.stop()
      await until(() => heard.includes('STATUS=1 of 1 workers ready, lame duck'), 'the lame duck')
      await until(() => heard.slice(before).some(text => text.startsWith('EXTEND')), 'more time')
      await supervisor.stop()
      await running
    })
    t.is(heard.filter(text => text.startsWith('STOPPING')).length, 1)
  }))

test('a start that fails is no stop of the service, because the main process may be another one', t =>
  managed(async heard => {
    await supervising(t, { entry: program('process.exit(3)'), workers: 1 }, async supervisor => {
      await t.throwsAsync(supervisor.run({ signals: false }), { code: 'ERR_PASSFD_WORKER_NOT_READY' })
    })
    t.deepEqual(
      heard.filter(text => /STOPPING|READY/.test(text)),
      []
    )
    t.is(heard.at(-1), 'BARRIER=1')
  }))

test('a manager that is gone is one warning, and the supervisor serves', async t => {
  const warnings: Error[] = []
  const { emitWarning } = process
  process.emitWarning = (warning: string | Error) => void warnings.push(new Error(String(warning)))
  process.env.NOTIFY_SOCKET = socketPath()
  try {
    await supervising(t, { entry: program(WAITS), workers: 1 }, async supervisor => {
      const running = supervisor.run({ signals: false })
      await until(() => supervisor.phase === 'running', 'the start')
      await supervisor.reload()
      await supervisor.stop()
      await running
    })
  } finally {
    delete process.env.NOTIFY_SOCKET
    process.emitWarning = emitWarning
  }
  t.is(warnings.length, 1)
  t.regex(warnings[0]!.message, /The service manager hears nothing from this supervisor: .*ENOENT/)
})
