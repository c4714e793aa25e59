import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { Watch } from '../../../attack/soak/watch.ts'
import { type Running, start } from '../../helpers/process.ts'
import { systemPython } from '../../helpers/programs.ts'
import { test, until } from '../../helpers/test.ts'

interface Scene {
  t: ExecutionContext
  folder: string
  reports: string[]
  watch: Watch
  /** Starts a process with these arguments; resolves to a line that it prints. */
  run(python: string, ...args: string[]): Promise<string>
}

/** A test with a folder of its own, whose processes have ended when it is over. */
function testWatch(title: string, body: (scene: Scene) => void | Promise<void>): void {
  test(title, async t => {
    const folder = mkdtempSync(join(tmpdir(), 'passfd-watched-'))
    const reports: string[] = []
    const watch = new Watch(folder, what => void reports.push(what), 0)
    const running: Running[] = []
    const run = (python: string, ...args: string[]): Promise<string> => {
      const one = start(systemPython, ['-c', `import os, sys\n${python}\nsys.stdin.read()`, ...args])
      running.push(one)
      return one.line()
    }
    try {
      await body({ t, folder, reports, watch, run })
    } finally {
      for (const { child } of running) child.kill('SIGKILL')
      await Promise.all(running.map(({ exit }) => exit))
      rmSync(folder, { recursive: true })
    }
  })
}

const say = (what: string): string => `print(${what}, flush=True)`

testWatch('a process within its bounds is no report', async ({ t, folder, reports, watch, run }) => {
  await run(say('1'), '/servers/prefork.mjs', folder)
  watch.check()
  watch.check()
  t.deepEqual(reports, [])
  t.is(watch.rows[0]?.process, 'supervisor')
})

testWatch('too many descriptors', async ({ t, folder, reports, watch, run }) => {
  await run(`files = [open('/dev/null') for _ in range(300)]\n${say('1')}`, '/servers/prefork.mjs', folder)
  watch.check()
  t.regex(reports.join(), /^a supervisor has more than 250 descriptors: .*30\d \/dev\/null/)
})

testWatch('too much memory', async ({ t, folder, reports, watch, run }) => {
  await run(`memory = bytearray(b'x') * 300_000_000\n${say('1')}`, '/servers/prefork.mjs', folder)
  watch.check()
  t.deepEqual(reports, ['a supervisor has more than 250 MiB'])
})

testWatch('a zombie that nobody reaps', async ({ t, folder, reports, watch, run }) => {
  const fork = `child = os.fork() or os._exit(0)\n${say('child')}`
  const pid = await run(fork, '/servers/prefork.mjs', folder)
  await until(() => {
    watch.check()
    return reports.length > 0
  }, 'the zombie to be reported')
  t.deepEqual(reports, [`process ${pid} is a zombie`])
})

testWatch(
  'a worker whose supervisor has ended, and what is left at the end',
  async ({ t, folder, reports, watch, run }) => {
    // Its parent has another name, and is none of the run
    const fork = `worker = os.fork() or os.execv(sys.executable, [sys.executable, '-c', 'import sys; sys.stdin.read()', sys.argv[1] + sys.argv[2]])\n`
    const [half, other] = [folder.slice(0, -3), folder.slice(-3)]
    const pid = Number(await run(fork + say('worker'), half, other))
    await until(() => {
      watch.check()
      return reports.length > 0
    }, 'the worker to be reported')
    watch.end()
    process.kill(pid, 'SIGKILL')
    t.deepEqual(reports, [`process ${pid} has lost its supervisor`, 'a worker is left'])
  }
)

testWatch('a new file, unless it is one of the attack’s', ({ t, folder, reports, watch }) => {
  writeFileSync(join(folder, 'socket'), '')
  watch.check()
  for (const name of ['boot', 'delay-7', 'another']) writeFileSync(join(folder, name), '')
  watch.check()
  t.deepEqual(reports, ['there is a new file another'])
})

testWatch('an event loop that is delayed for long', async ({ t, folder, reports, watch, run }) => {
  const pid = await run(say('os.getpid()'), '"role":"peer"', folder)
  writeFileSync(join(folder, `delay-${pid}`), '40000')
  watch.check()
  t.deepEqual(reports, ['the event loop of a peer is delayed by 40000 ms'])
})
