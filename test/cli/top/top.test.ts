/** `passfd top` as it is called: in this process without a terminal, and as a program in one. */
import { EventEmitter } from 'node:events'
import { fileURLToPath } from 'node:url'
import { EXIT } from '../../../src/cli/exit.ts'
import { captured, runPassfd } from '../../helpers/cli.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { startInTerminal } from '../../helpers/pty.ts'
import { get, light, only, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

const PASSFD = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const ENTER_SCREEN = '\x1b[?1049h'
/** A line of `stty -g`. */
const SETTINGS = /^[\da-f]+:[\da-f:]+\s*$/
const LEAVE_SCREEN = '\x1b[?25h\x1b[?1049l'

test('one picture, as text and as JSON', async t => {
  const admin = socketPath()
  await supervising(t, { admin, workers: 2 }, async supervisor => {
    await supervisor.start()
    await get(supervisor)
    const [text, json] = await Promise.all([
      runPassfd(['top', '--once', admin]),
      runPassfd(['top', '--once', '--json', admin])
    ])
    t.like(text, { code: 0, err: '' })
    const lines = text.out.split('\n')
    t.is(lines.length, 7)
    t.true(lines[0]!.startsWith(`${admin}  process ${process.pid}  running  up `))
    t.regex(lines[0]!, /2 of 2 ready$/)
    t.regex(lines[2]!, /^http 127\.0\.0\.1:\d+$/)
    t.regex(lines[4]!, new RegExp(`^ {3}0 +${supervisor.workers[0]!.pid} ready `))
    t.like(json, { code: 0, err: '' })
    const value = JSON.parse(json.out)
    t.like(value, { target: admin, pid: process.pid, phase: 'running', size: 2, totals: { ready: 2, restarts: 0 } })
    t.deepEqual(
      value.workers.map(({ pid }: { pid: number }) => pid),
      supervisor.workers.map(({ pid }) => pid)
    )
    t.true(value.workers.every(({ cpuPercent }: { cpuPercent: number }) => cpuPercent >= 0))
  })
})

test('a line of JSON each second, until the reader ends', async t => {
  const admin = socketPath()
  await supervising(t, { admin, command: [light()] }, async supervisor => {
    await supervisor.start()
    const streams = captured()
    const lines: any[] = []
    const stdout = Object.assign(new EventEmitter(), {
      write: (line: string) => {
        lines.push(JSON.parse(line))
        if (lines.length === 1) void supervisor.stop()
        if ('error' in lines.at(-1)) stdout.emit('error', new Error('EPIPE'))
      }
    })
    t.is((await runPassfd(['top', '--json', admin], { ...streams, stdout } as never)).code, 0)
    t.like(lines[0], { pid: process.pid, foreign: true, workers: [{ slot: 0, state: 'ready' }] })
    t.is(lines.at(-1).error.code, 'ERR_PASSFD_CLOSED')
    t.is(stdout.listenerCount('error'), 0)
  })
})

test('what it can not do it says, with the way to do it', async t => {
  const admin = socketPath()
  t.like(await runPassfd(['top', '--once', admin]), { code: EXIT.unavailable, out: '' })
  const pipe = await runPassfd(['top', admin])
  t.like(pipe, { code: EXIT.usage, out: '' })
  t.regex(pipe.err, /^passfd: The live view needs a terminal.*--once.*--json\.\n$/)
  const streams = captured({ TERM: 'dumb' }, { terminal: true })
  Object.assign(streams.stdin, { isTTY: true })
  const dumb = await runPassfd(['top', admin], streams)
  t.like(dumb, { code: EXIT.usage, out: '' })
  t.regex(dumb.err, /^passfd: .*TERM=dumb.*--once/)
})

testInCi(
  'in a terminal: keys command the supervisor and change the view; a resize is followed; the terminal comes back as it was',
  async t => {
    const admin = socketPath()
    await supervising(t, { admin, command: [light()] }, async supervisor => {
      await supervisor.start()
      const script = `stty -g; "$@"; echo "status $?"; stty -g; read end`
      const terminal = startInTerminal('/bin/sh', ['-c', script, 'sh', process.execPath, PASSFD, 'top', admin])
      t.teardown(() => terminal.kill('SIGKILL'))
      await terminal.shows(/1 of 1 ready/)
      terminal.type('+')
      await terminal.shows(/2 of 2 ready/)
      await terminal.shows(/scale 2: done/)
      await only(supervisor, 1, 2)
      terminal.type('1')
      t.regex(await terminal.shows(/^slot 1 {2}process/), new RegExp(`process ${supervisor.workers[1]!.pid} `))
      terminal.resize(50, 10)
      const small = await terminal.shows(/…/)
      t.true(small.split('\n').every(line => line.length <= 50))
      terminal.resize(80, 24)
      terminal.type('\x1b')
      await terminal.shows(/^SLOT/)
      terminal.type('s')
      await terminal.shows(/^Stop process \d+ and its 2 workers\?/)
      terminal.type('n')
      await terminal.shows(/^r reload/)
      terminal.type('r')
      await terminal.shows(/reload: done/)
      await only(supervisor, 3, 4)
      terminal.type('q')
      await terminal.shows(/^status 0/)
      await terminal.shows(SETTINGS)
      t.true(terminal.written.includes(LEAVE_SCREEN))
      terminal.type('\n')
      await terminal.exit
      const [before, after] = terminal.written.split('\n').filter(line => SETTINGS.test(line))
      t.is(after, before)
    })
  }
)

testInCi('in a terminal: a signal ends it as a shell expects, and the terminal comes back', async t => {
  const admin = socketPath()
  await supervising(t, { admin, command: [light()] }, async supervisor => {
    await supervisor.start()
    for (const [signal, number] of [
      ['SIGTERM', 15],
      ['SIGINT', 2],
      ['SIGHUP', 1]
    ] as const) {
      const terminal = startInTerminal(process.execPath, [PASSFD, 'top', admin])
      await terminal.shows(/1 of 1 ready/)
      process.kill(terminal.pid, signal)
      t.like(await terminal.exit, { signal: number }, signal)
      t.true(terminal.written.includes(ENTER_SCREEN))
      t.true(terminal.written.endsWith(LEAVE_SCREEN), signal)
    }
    // Ctrl+C and Ctrl+Z are keys; no shell is there that would continue it
    const terminal = startInTerminal(process.execPath, [PASSFD, 'top', admin])
    await terminal.shows(/1 of 1 ready/)
    terminal.type('\x1a')
    await until(() => terminal.written.split(ENTER_SCREEN).length === 3, 'it is there again')
    terminal.type('\x03')
    t.like(await terminal.exit, { exitCode: 0 })
    t.true(terminal.written.endsWith(LEAVE_SCREEN))
  })
})

testInCi('in a terminal: a takeover, the end of the supervisor, and a new one', async t => {
  const options = { admin: socketPath(), takeover: temporaryPath('takeover'), command: [light()] as [string] }
  let terminal: ReturnType<typeof startInTerminal> | undefined
  await supervising(t, options, async one => {
    await one.start()
    terminal = startInTerminal(process.execPath, [PASSFD, 'top', options.admin])
    t.teardown(() => terminal!.kill('SIGKILL'))
    await terminal.shows(/1 of 1 ready/)
    await supervising(t, { ...options, workers: 2 }, async two => {
      await two.start()
      await terminal!.shows(/2 of 2 ready/)
      await terminal!.shows(/has taken the place of process/)
      terminal!.type('sy')
      await terminal!.shows(/Nobody answers since .*: the server has ended\./)
      await until(() => two.phase === 'stopped', 'the stop')
    })
  })
  await supervising(t, { ...options, workers: 3 }, async three => {
    await three.start()
    const screen = await terminal!.shows(/3 of 3 ready/)
    t.notRegex(screen, /Nobody answers since/)
    t.regex(screen, /process \d+ answers/)
    terminal!.type('q')
    t.like(await terminal!.exit, { exitCode: 0 })
  })
})
