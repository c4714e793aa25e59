/** `--watch`. */
import { once } from 'node:events'
import { existsSync, mkdirSync, renameSync, rmSync, watch as watchFile, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import {
  isIgnored,
  OUTDATED,
  reloader,
  restartOnChange,
  WATCH_DEFAULTS,
  Watch,
  type WatchOptions
} from '../../../src/cli/serve/watch.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { start } from '../../helpers/process.ts'
import { get, light, only, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

// libuv's inotify descriptor, which stays open, is opened before anything is counted
watchFile('/').close()

function folder(): string {
  const path = temporaryPath('.watched') // the folder itself may have any name
  mkdirSync(path)
  return path
}

/** Collects what changes. */
async function watching(
  cwd: string,
  options: Partial<WatchOptions>,
  body: (seen: Set<string>, watch: Watch) => Promise<void>
): Promise<void> {
  const seen = new Set<string>()
  const errors: Error[] = []
  const watch = await Watch.start({
    cwd,
    onChange: paths => {
      for (const path of paths) seen.add(path)
    },
    onError: error => errors.push(error),
    ...options
  })
  try {
    await body(seen, watch)
  } finally {
    await watch.close()
  }
  if (errors.length > 0) throw errors[0]
}

test('what is left alone', t => {
  for (const path of [
    'node_modules',
    'a/node_modules/b/c.js',
    '.git',
    '.env',
    'a/.cache/b.js',
    'a.js~',
    'x.log',
    'a/.b.js.swp',
    '#a.js#'
  ])
    t.true(isIgnored(path, false), path)
  for (const path of ['', 'a.js', 'a/b.html', 'logs', 'data.db', 'src/node_modules.js'])
    t.false(isIgnored(path, false), path)
  for (const path of ['a.js', 'a.mts', 'a.tsx', 'package.json']) t.false(isIgnored(path, true), path)
  for (const path of ['data.db', 'page.html', 'Makefile']) t.true(isIgnored(path, true), path)
})

test('a change, a new file, a new folder, a file that an editor replaces, a removed one', async t => {
  const cwd = folder()
  writeFileSync(join(cwd, 'a.js'), '1')
  mkdirSync(join(cwd, 'node_modules'))
  const log = join(cwd, 'own.json')
  await watching(cwd, { ignored: [log] }, async (seen, watch) => {
    const changed = async (name: string, change: () => void) => {
      seen.clear()
      const next = watch.next()
      change()
      await next
      await until(() => seen.has(name), name)
      t.deepEqual([...seen], [name])
    }
    await changed('a.js', () => writeFileSync(join(cwd, 'a.js'), '2'))
    // As passfd's own are
    const server = createServer().listen(join(cwd, 'own.takeover'))
    await once(server, 'listening')
    await changed('b.ts', () => {
      writeFileSync(log, '{}')
      writeFileSync(join(cwd, 'data.db'), 'x')
      writeFileSync(join(cwd, 'node_modules', 'x.js'), 'x')
      writeFileSync(join(cwd, '.hidden.js'), 'x')
      writeFileSync(join(cwd, 'b.ts'), '1')
    })
    await changed('sub/c.js', () => {
      mkdirSync(join(cwd, 'sub'))
      writeFileSync(join(cwd, 'sub', 'c.js'), '1')
    })
    await changed('a.js', () => {
      writeFileSync(join(cwd, 'a.js~'), '3')
      renameSync(join(cwd, 'a.js~'), join(cwd, 'a.js'))
    })
    await changed('b.ts', () => rmSync(join(cwd, 'b.ts')))
    server.close()
    await once(server, 'close')
  })
})

test('named folders are watched with all their files, and nothing else is; named files always', async t => {
  const cwd = folder()
  for (const name of ['views', 'src']) mkdirSync(join(cwd, name))
  writeFileSync(join(cwd, '.env'), 'A=1')
  await watching(cwd, { folders: ['views'], files: ['.env'] }, async seen => {
    writeFileSync(join(cwd, 'src', 'a.js'), '1')
    writeFileSync(join(cwd, 'views', 'page.html'), '1')
    await until(() => seen.has('views/page.html'), 'the page')
    writeFileSync(join(cwd, '.env'), 'A=2')
    await until(() => seen.has('.env'), 'the environment')
    t.deepEqual([...seen].sort(), ['.env', 'views/page.html'])
  })
})

test('a folder that is removed and made again, as builds do, or replaced by another one, is watched on', async t => {
  const cwd = folder()
  const [dist, file] = [join(cwd, 'dist'), join(cwd, 'dist', 'a.js')]
  const build = (): void => {
    mkdirSync(dist)
    writeFileSync(file, '1')
  }
  build()
  await watching(cwd, { folders: ['dist'] }, async seen => {
    const changed = async (name: string, change: () => void): Promise<void> => {
      seen.clear()
      change()
      await until(() => seen.has(name), name)
    }
    await changed('dist/a.js', () => rmSync(dist, { recursive: true }))
    await changed('dist', build)
    await changed('dist/a.js', () => writeFileSync(file, '2'))
    await changed('dist', () => {
      renameSync(dist, join(cwd, 'old'))
      build()
    })
    await changed('dist/a.js', () => writeFileSync(file, '3'))
    t.pass()
  })
})

test('a failure is reported once; a change during the start causes a reload after it', async t => {
  const results: (() => Promise<void>)[] = []
  const supervisor = { reload: () => results.shift()!(), workers: [] }
  const failed: Error[] = []
  const { change, started } = reloader(supervisor, error => failed.push(error))
  const error = new Error('it does not start')
  results.push(
    () => Promise.reject(error),
    () => Promise.reject(error)
  )
  change()
  change()
  await until(() => failed.length > 0, 'the failure')
  t.deepEqual(failed, [error])
  const early = Object.assign(new Error('early'), { code: 'ERR_PASSFD_SUPERVISOR_STATE' })
  results.push(() => Promise.reject(early))
  change()
  await until(() => results.length === 0, 'the call')
  await null
  results.push(() => Promise.resolve())
  started()
  t.is(results.length, 0)
  started()
  t.is(failed.length, 1)
})

test('a worker that dies early waits for a change, another one is replaced at once', t => {
  const death = { slot: 0, booted: true, uptime: 500, at: 0 }
  t.true((restartOnChange([death], 0) as any).delay > 1e9)
  t.deepEqual(restartOnChange([death, { ...death, uptime: 60_000 }], 0), { restart: true, delay: 0 })
  t.deepEqual(restartOnChange([], 0), { restart: true, delay: 0 })
})

test('a supervisor: a change replaces the workers; what does not start leaves the old ones, until the next change', async t => {
  const cwd = folder()
  const path = join(cwd, 'worker.js')
  writeFileSync(path, `exec ${light()}`)
  await supervising(t, { command: ['/bin/sh', path] }, async supervisor => {
    const failed: Error[] = []
    const { change } = reloader(supervisor, error => failed.push(error))
    await supervisor.start()
    await watching(cwd, { onChange: change }, async () => {
      writeFileSync(path, `exec ${light()} 1`)
      await only(supervisor, 2)
      writeFileSync(path, 'exit 3')
      await until(() => failed.length === 1, 'the failure')
      t.regex(failed[0]!.message, /code 3/)
      await only(supervisor, 2)
      writeFileSync(path, `exec ${light()} 2`)
      await until(() => supervisor.workers.some(({ id, state }) => id > 3 && state === 'ready'), 'the new worker')
    })
  })
})

test('a new worker that never gets ready does not hold the next change', async t => {
  const cwd = folder()
  const path = join(cwd, 'worker.js')
  writeFileSync(path, `exec ${light()}`)
  await supervising(t, { command: ['/bin/sh', path] }, async (supervisor, { exits }) => {
    const outdated: number[] = []
    const patience = { time: 100 }
    const { change } = reloader(
      supervisor,
      error => t.fail(error.message),
      ({ id }) => outdated.push(id),
      patience
    )
    await supervisor.start()
    const old = supervisor.workers.map(({ pid }) => pid)
    const runs = join(cwd, 'runs')
    writeFileSync(path, `: > ${runs}; exec sleep 1000`)
    change()
    await until(() => existsSync(runs), 'the one that hangs')
    writeFileSync(path, `exec ${light()} 1`)
    change()
    await until(() => supervisor.workers.every(({ id, state }) => id > 2 && state === 'ready'), 'the new code')
    t.false(supervisor.workers.some(({ pid }) => old.includes(pid)))
    t.is(exits.length, 2)
    t.deepEqual(outdated, [2])
    await until(() => patience.time === OUTDATED, 'the end of the reload')
  })
})

test('the next worker gets more time than one that was killed, so that a slow start is not killed for ever', async t => {
  const { child, exit } = start('/bin/sleep', ['1000'])
  const worker = { id: 1, state: 'starting', uptime: 1e9, pid: child.pid }
  const patience = { time: 100 }
  const supervisor = { workers: [worker], reload: () => new Promise<void>(() => {}) }
  reloader(supervisor as never, error => t.fail(error.message), undefined, patience).change()
  t.is((await exit).signal, 'SIGKILL')
  t.is(patience.time, 200)
})

testInCi('a worker that crashes at its start: its port stays open, and requests wait for the next change', async t => {
  const cwd = folder()
  const server = (answer: string) => `import { createServer } from 'node:http'
    const worker = await joinSupervisor()
    await worker.listen('http', createServer((request, response) => response.end('${answer}')))
    await worker.ready()`
  const path = program(`${server('old')}; setTimeout(() => process.exit(5), 1)`, join(cwd, 'worker.mjs'))
  await supervising(t, { entry: path, ...WATCH_DEFAULTS }, async (supervisor, { exits }) => {
    const { change } = reloader(supervisor, error => t.fail(error.message))
    await supervisor.start()
    await watching(cwd, { onChange: change }, async () => {
      await until(() => exits.length > 0, 'the crash')
      const answer = get(supervisor)
      program(server('new'), path)
      t.is(await answer, 'new')
    })
  })
})
