/** A new release behind a link: what is started by a path through the link is the new one, though the old one is gone. */
import { mkdirSync, mkdtempSync, realpathSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { isFull } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { type Supervised, supervise } from '../helpers/prefork.ts'
import { systemPython } from '../helpers/programs.ts'
import { testInCi } from '../helpers/test.ts'

const dist = new URL('../../build/dist/prefork/index.js', import.meta.url).href

/** A folder of releases, and the link to the newest one. */
function deployments() {
  const folder = realpathSync(mkdtempSync(temporaryPath('app')))
  const current = join(folder, 'current')
  const pathOf = (release: number) => join(folder, 'releases', `${release}`)
  return {
    folder,
    current,
    deploy: (release: number) => {
      const path = pathOf(release)
      mkdirSync(path, { recursive: true })
      const says = `${release} \${process.cwd()} \${import.meta.url}`
      writeFileSync(
        join(path, 'worker.mjs'),
        `import { createServer } from 'node:http'
        import { joinSupervisor } from '${dist}'
        const worker = await joinSupervisor()
        await worker.listen('http', createServer((_, response) => response.end(\`${says}\`)))
        await worker.ready()`
      )
      writeFileSync(
        join(path, 'worker.py'),
        `#!/usr/bin/env ${systemPython}
import os, socket
listener = socket.socket(fileno=3)
listener.setblocking(True)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'].replace('@', '\\0'))
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n${release} ' + os.getcwd().encode())
    connection.close()`,
        { mode: 0o755 }
      )
      symlinkSync(join('releases', `${release}`), `${current}.new`)
      renameSync(`${current}.new`, current)
    },
    prune: (release: number) => rmSync(pathOf(release), { recursive: true })
  }
}

/** A supervisor whose working directory, this process', is `cwd`: has it do something, or gives what a worker answers. */
async function run(
  t: ExecutionContext,
  options: object,
  cwd: string,
  body: (supervisor: Supervised, get: () => Promise<string>) => Promise<void>
): Promise<void> {
  const before = process.cwd()
  process.chdir(cwd)
  try {
    const supervisor = await supervise(t, { workers: 1, idleGrace: 50, stopTimeout: 1000, ...options })
    await body(supervisor, async () =>
      (await fetch(`http://127.0.0.1:${supervisor.port}/`, { headers: { connection: 'close' } })).text()
    )
    t.is(await supervisor.end(), '')
  } finally {
    process.chdir(before)
  }
}

testInCi('entry through a link: the release that is there now, in its folder when the old one is gone', async t => {
  const { current, folder, deploy, prune } = deployments()
  deploy(1)
  const releases = join(folder, 'releases')
  const cases = [
    [{ entry: join(current, 'worker.mjs') }, [`${releases}/1`, `${releases}/1`, `${releases}/2`]],
    [{ entry: 'worker.mjs', spawn: { cwd: current } }, [`${releases}/1`, `${releases}/2`, `${releases}/2`]],
    [{ command: [join(current, 'worker.py')] }, [`${releases}/1`, `${releases}/1`, `${releases}/2`]],
    [{ command: ['./worker.py'], spawn: { cwd: current } }, [`${releases}/1`, `${releases}/2`, `${releases}/2`]],
    [{ entry: `${new URL(`file://${current}/worker.mjs`)}` }, [`${releases}/1`, `${releases}/1`, `${releases}/2`]]
  ] as const
  // A normal run has one in Node by its path, and one that is not, in its folder; the test below has one in Node in its folder
  for (const [options, cwds] of cases.filter((_, index) => isFull || [0, 3].includes(index))) {
    deploy(1)
    const what = JSON.stringify(options)
    await run(t, options, current, async (supervisor, get) => {
      t.true((await get()).startsWith(`1 ${cwds[0]}`), what)
      deploy(2)
      await supervisor.ask('reload')
      t.true((await get()).startsWith(`2 ${cwds[1]}`), what)
      prune(1)
      await supervisor.ask('reload')
      const answer = await get()
      t.true(answer.startsWith(`2 ${cwds[2]}`), `${what}: ${answer}`)
    })
  }
})

testInCi('a relative path from a working directory that is gone: an error that names what is missing', async t => {
  const { current, deploy, prune } = deployments()
  deploy(1)
  await run(t, { entry: 'worker.mjs' }, current, async (supervisor, get) => {
    deploy(2)
    prune(1)
    const error = await t.throwsAsync(supervisor.ask('reload'))
    t.regex(error!.message, /WORKER_NOT_READY: .*releases\/1\/worker\.mjs does not exist/)
    t.regex(await get(), /^1 /)
    // The same path again, with a new folder: it is that one
    deploy(1)
    await supervisor.ask('reload')
    t.regex(await get(), /^1 .*releases\/1 /)
  })
})
