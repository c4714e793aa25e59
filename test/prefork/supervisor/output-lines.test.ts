/** The output of workers as lines: `spawn.stdio` and the event 'line'. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { connect } from '../../../src/index.ts'
import type { AdminCommand, AdminEvent, Supervisor } from '../../../src/prefork/index.ts'
import { LineSplitter, MAX_LINE } from '../../../src/prefork/supervisor/output-lines.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { startFixture } from '../../helpers/process.ts'
import { KINDS, light, only, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

const LINES = { stdio: 'lines' } as const

/** `id stream text` of each line, and `id exit` of each end. */
function follow(supervisor: Supervisor): string[] {
  const told: string[] = []
  supervisor.on('line', ({ id }, stream, line) => told.push(`${id} ${stream} ${line.toString('latin1')}`))
  supervisor.on('exit', ({ id }) => told.push(`${id} exit`))
  return told
}

/** A worker by the shell. `$ready` sends READY=1; `$wait` is a worker that waits for signals, and sends READY=1, too. */
function shell(script: string): { command: readonly [string, ...string[]]; spawn: typeof LINES } {
  return { command: ['/bin/sh', '-c', script.replaceAll('$wait', `exec ${light()}`)], spawn: LINES }
}

test('lines are the same however the bytes come; the last one needs no newline', t => {
  const text = fc.array(fc.constantFrom('', 'a', 'bc', '\n', '\r', '\xff'), { maxLength: 30 })
  fc.assert(
    fc.property(text, fc.array(fc.nat(40), { maxLength: 8 }), (parts, cuts) => {
      const bytes = Buffer.from(parts.join(''), 'latin1')
      const places = [0, ...cuts.filter(cut => cut <= bytes.length).sort((a, b) => a - b), bytes.length]
      const splitter = new LineSplitter()
      const lines = places.slice(1).flatMap((place, index) => splitter.push(bytes.subarray(places[index], place)))
      lines.push(...splitter.end())
      const expected = bytes.toString('latin1').split('\n')
      if (expected.at(-1) === '') expected.pop()
      t.deepEqual(
        lines.map(line => line.toString('latin1')),
        expected
      )
    }),
    { numRuns: 200 }
  )
})

test('a line of the limit is whole, a longer one is cut, and the next one begins at its place', t => {
  t.is(MAX_LINE, 16 * 1024 * 1024)
  const limit = 8
  const splitter = new LineSplitter(limit)
  const half = Buffer.alloc(limit / 2, 'x')
  const lengths = (chunk: Buffer | string) => splitter.push(Buffer.from(chunk)).map(({ length }) => length)
  t.deepEqual([lengths(half), lengths(half), lengths('\nab\n')], [[], [], [limit, 2]])
  t.deepEqual([lengths(half), lengths(half), lengths('123\nab\nc')], [[], [], [limit, 3, 2]])
  t.deepEqual(lengths(Buffer.alloc(2 * limit + 5, 'y')), [limit, limit])
  t.deepEqual(
    splitter.end().map(({ length }) => length),
    [6]
  )
  t.deepEqual(splitter.end(), [])
})

test('whole lines of both streams, bytes that are no UTF-8, long ones, and the last one of a worker that dies; all before its exit', async t => {
  const long = 2 * 1024 * 1024
  const script = `printf 'one\\ntwo\\377\\n\\n'; printf 'err\\n' >&2
    head -c ${long} /dev/zero | tr '\\0' x; printf '\\nunfinished'; printf 'oh' >&2; exit 3`
  await supervising(t, shell(script), async supervisor => {
    const told = follow(supervisor)
    await t.throwsAsync(supervisor.start(), { message: /code 3/ })
    const of = (stream: string) => told.filter(line => line.startsWith(`1 ${stream} `)).map(line => line.slice(9))
    t.deepEqual(
      of('stdout').map(line => (line.length === long ? line.replaceAll('x', '') : line)),
      ['one', 'two\xff', '', '', 'unfinished']
    )
    t.deepEqual(of('stderr'), ['err', 'oh'])
    t.is(told.indexOf('1 exit'), told.length - 1)
  })
})

for (const kind of KINDS)
  test(`${kind.name}: a worker that KILL ends loses nothing that it has written`, async t => {
    const source =
      kind.name === 'Node'
        ? `process.stdout.write('a\\nlast'); console.error('err'); ${kind.waits()}`
        : `printf 'a\\nlast'; echo err >&2; ${kind.waits()}`
    await supervising(t, { ...kind.options(program(source)), spawn: LINES }, async supervisor => {
      const told = follow(supervisor)
      await supervisor.start()
      await supervisor.kill()
      t.deepEqual(told.toSorted(), ['1 exit', '1 stderr err', '1 stdout a', '1 stdout last'])
      t.is(told.at(-1), '1 exit')
    })
  })

test("a process that outlives the worker and holds its output does not delay 'exit'; its lines come later, until the supervisor stops", async t => {
  const folder = temporaryPath('folder')
  mkdirSync(folder)
  const [go, gone] = [join(folder, 'go'), join(folder, 'gone')]
  // In a session of its own, so that the supervisor leaves it alone. SIGPIPE would end it
  const child = `trap '' PIPE; echo there; i=0
    while [ ! -e ${go} ] && [ $((i = i + 1)) -lt 3000 ]; do sleep 0.01; done
    echo late; echo $$ > ${gone}.new; mv ${gone}.new ${gone}; exec sleep 60`
  const options = shell(`echo first; setsid sh -c '${child}' & $wait`)
  const restart = () => ({ restart: true, delay: 1e9 }) as const
  await supervising(t, { ...options, restart }, async supervisor => {
    const told = follow(supervisor)
    await supervisor.start()
    await until(() => told.includes('1 stdout there'), 'its session')
    process.kill(supervisor.workers[0]!.pid!, 'SIGUSR2')
    await until(() => told.includes('1 exit'), 'the exit')
    t.deepEqual(
      told.filter(line => line.startsWith('1')),
      ['1 stdout first', '1 stdout there', '1 exit']
    )
    writeFileSync(go, '')
    await until(() => told.includes('1 stdout late'), 'the line of the survivor')
    await until(() => existsSync(gone), 'its pid')
    await supervisor.kill()
    process.kill(Number(readFileSync(gone, 'utf8')), 'SIGKILL')
  })
})

test("'ignore' leaves nothing to be read; 'lines' without a listener drops them", async t => {
  for (const stdio of ['ignore', 'lines'] as const) {
    const script = `yes | head -c 1000000; echo yes >&2; $wait`
    await supervising(t, { ...shell(script), spawn: { stdio } }, async supervisor => {
      await supervisor.start()
      await supervisor.stop()
    })
  }
})

/** Resolves when the event loop has turned so often. */
async function turnsOver(count: number): Promise<void> {
  for (let turns = 0; turns < count; turns++) await turn()
}

test('a listener that pauses them loses none', async t => {
  const script = `i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i + 1)); done; $wait`
  await supervising(t, shell(script), async supervisor => {
    let next = 0
    let pauses = 0
    supervisor.on('line', (_, __, line) => {
      t.true(Number(`${line}`) === next++)
      if (next % 5000 !== 0) return
      supervisor.pauseLines()
      pauses++
      void turnsOver(10).then(() => supervisor.resumeLines())
    })
    await supervisor.start() // the worker says that it is ready when it has written them
    await until(() => next === 20_000, 'all lines')
    t.is(pauses, 4)
  })
})

testInCi('a listener that pauses them for ever delays a worker, and does not stop it', async t => {
  const script = `head -c 150000 /dev/zero | tr '\\0' '\\n'; $wait`
  await supervising(t, shell(script), async supervisor => {
    supervisor.pauseLines()
    let count = 0
    supervisor.on('line', () => count++)
    await supervisor.start()
    await supervisor.kill()
    t.is(count, 150_000)
  })
})

test('the admin channel sends lines to subscribers that ask for them: long ones cut, those missed counted', async t => {
  const admin = temporaryPath('admin')
  const long = 300 * 1024
  const script = `read x; echo one; printf 'b\\377' >&2; head -c ${long} /dev/zero | tr '\\0' x; $wait`
  const fifo = temporaryPath('fifo')
  const options = shell(`mkfifo ${fifo}; ( ${script.replace('$wait', ':')} ) < ${fifo}; $wait`)
  await supervising(t, { ...options, admin }, async supervisor => {
    const starting = supervisor.start()
    await until(() => existsSync(fifo) && existsSync(admin), 'the worker')
    const events: AdminEvent[][] = []
    for (const lines of [true, false]) {
      const channel = await connect<AdminEvent, AdminCommand>(admin)
      const got: AdminEvent[] = []
      events.push(got)
      channel.on('message', ({ value }) => void got.push(value))
      await channel.request({ command: 'subscribe', lines })
      await channel.request({ command: 'subscribe', lines }) // nothing comes twice
    }
    writeFileSync(fifo, 'go\n')
    await starting
    await supervisor.kill()
    const lines = events[0]!.filter(({ event }) => event === 'line')
    t.deepEqual(
      lines
        .map(({ worker, stream, line, length }) => [worker?.id, stream, Buffer.from(line!).length, length])
        .toSorted(),
      [
        [1, 'stderr', 2, undefined],
        [1, 'stdout', 3, undefined],
        [1, 'stdout', 256 * 1024, long]
      ].toSorted()
    )
    t.deepEqual(
      events[1]!.filter(({ event }) => event === 'line'),
      []
    )
    t.is(supervisor.listenerCount('line'), 0)
  })
})

test('a subscriber that reads too slowly is told how many lines it has missed', async t => {
  const admin = temporaryPath('admin')
  await supervising(t, { command: [light()], admin }, async supervisor => {
    await supervisor.start()
    const channel = await connect<AdminEvent, AdminCommand>(admin)
    await channel.request({ command: 'subscribe', lines: true })
    const worker = supervisor.workers[0]!
    const line = Buffer.alloc(200_000, 'x')
    for (let count = 0; count < 100; count++) supervisor.emit('line', worker, 'stdout', line)
    const iterator = channel[Symbol.asyncIterator]()
    let got = 0
    let missed = 0
    let last = false
    const done = until(() => last, 'the last line')
    void (async () => {
      for (;;) {
        const { value, done: ended } = await iterator.next()
        if (ended) return
        const { event, line, missed: count = 0 } = value.value as AdminEvent
        if (event !== 'line') continue
        got++
        missed += count
        last = line!.length === 1
        if (got === 5) supervisor.emit('line', worker, 'stdout', Buffer.from('!'))
      }
    })()
    await done
    t.is(got + missed, 101)
    t.true(missed > 0)
    await channel.close()
  })
})

testInCi(
  'in Node: a worker whose supervisor was killed serves to its end, though nobody reads what it writes',
  async t => {
    const entry = program(`import { createServer } from 'node:http'
    import { writeFileSync } from 'node:fs'
    const worker = await joinSupervisor()
    const server = createServer((request, response) => {
      response.flushHeaders()
      worker.signal.addEventListener('abort', () => {
        let count = 0
        const timer = setInterval(() => {
          process.stdout.write('still here\\n')
          process.stderr.write('still here\\n')
          if (++count < 10) return
          clearInterval(timer)
          response.end('done')
        }, 5)
      })
    })
    await worker.listen('http', server)
    await worker.ready()`)
    const options = {
      entry,
      listeners: { http: { port: 0, host: '127.0.0.1' } },
      spawn: { stdio: 'lines', execArgv: [] }
    }
    const supervisor = startFixture('prefork-runs', [JSON.stringify(options)])
    let line = ''
    while (!line.includes(' ready ')) line = await supervisor.line()
    const [, , , port] = line.split(' ')
    const response = await fetch(`http://127.0.0.1:${port}/`)
    supervisor.child.kill('SIGKILL')
    t.is(await response.text(), 'done')
    t.is((await supervisor.exit).signal, 'SIGKILL')
  }
)

testInCi('a program that knows nothing of passfd, behind a shell', async t => {
  const source = `import { createServer } from 'node:http'
    console.log('before'); console.error('err')
    createServer().listen(0, '127.0.0.1', () => process.stdout.write('listens'))`
  const options = { program: ['/bin/sh', '-c', `node ${program(source)}; true`], listeners: {}, spawn: LINES } as const
  await supervising(t, options, async supervisor => {
    const told = follow(supervisor)
    await supervisor.start()
    await supervisor.stop()
    t.deepEqual(told.toSorted(), ['1 exit', '1 stderr err', '1 stdout before', '1 stdout listens'])
    t.is(told.at(-1), '1 exit')
  })
})

test('workers of a reload are told apart', async t => {
  await supervising(t, shell('echo hello; $wait'), async supervisor => {
    const told = follow(supervisor)
    await supervisor.start()
    await supervisor.reload()
    await only(supervisor, 2)
    await supervisor.kill()
    t.deepEqual(told.toSorted(), ['1 exit', '1 stdout hello', '2 exit', '2 stdout hello'])
  })
})
