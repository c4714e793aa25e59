/** `passfd store` as processes of its own. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Descriptor } from '../../../src/index.ts'
import { connectStore } from '../../../src/store/index.ts'
import { NotifySocket } from '../../../src/systemd/notify-socket.ts'
import { socketPath } from '../../helpers/path.ts'
import { type Running, start } from '../../helpers/process.ts'
import { childrenOf } from '../../helpers/processes.ts'
import { missing } from '../../helpers/programs.ts'
import { test, testInCi, testInCiIf, until } from '../../helpers/test.ts'

const command = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const UNSHARE = '/usr/bin/unshare'
const NOBODY = 65_534

interface Event {
  event: string
  level: string
  text: string
  [fact: string]: unknown
}

interface Daemon extends Running {
  events(): Event[]
  said(event: string): Promise<Event>
}

/** Starts a store that prints its events as JSON. */
function daemon(
  path: string,
  args: readonly string[] = [],
  env: Record<string, string> = {},
  before: readonly string[] = []
): Daemon {
  const [program, ...words] = [...before, process.execPath, command, 'store', '--json', ...args]
  const running = start(program!, words, {
    env: { ...process.env, PASSFD_STORE: path, ...env }
  })
  let text = ''
  running.child.stderr!.on('data', more => {
    text += more
  })
  const events = (): Event[] =>
    text
      .split('\n')
      .filter(line => line.startsWith('{'))
      .map(line => JSON.parse(line))
  const said = async (event: string): Promise<Event> => {
    const find = (): Event | undefined => events().find(one => one.event === event)
    await until(() => find() !== undefined || running.child.exitCode !== null, event)
    const found = find()
    if (found === undefined) throw new Error(text)
    return found
  }
  return { ...running, events, said }
}

/** Node itself has no handler of SIGHUP: proc_pid_status(5). */
function handlesHangup(pid: number): boolean {
  const [, caught = '0'] = /^SigCgt:\s*(\w+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return (Number.parseInt(caught.at(-1)!, 16) & 1) === 1
}

test('it says where it listens, and a signal ends it with all that it holds', async t => {
  const path = socketPath()
  const store = daemon(path, ['--mode', '0640', '--max-names', '1'])
  t.like(await store.said('started'), { level: 'info', socket: path, pid: store.child.pid, names: 0, descriptors: 0 })
  t.is(statSync(path).mode & 0o777, 0o640)
  await using client = await connectStore(path)
  await client.put('a', Descriptor.openSync('/dev/null'))
  using more = Descriptor.openSync('/dev/null')
  await t.throwsAsync(client.put('b', more), { code: 'ERR_PASSFD_STORE_FULL' })
  store.child.kill('SIGHUP')
  t.like(await store.said('stopping'), { names: 1, descriptors: 1 })
  t.like(await store.exit, { code: 0 })
  t.deepEqual(
    store.events().map(({ event, level }) => `${event} ${level}`),
    ['started info', 'stopping info']
  )
})

test('a second store is refused, and names the first; --takeover replaces it with all that it holds', async t => {
  const path = socketPath()
  const first = daemon(path)
  await first.said('started')
  await using client = await connectStore(path)
  await client.put('a', Descriptor.openSync('/dev/null'))
  const refused = daemon(path)
  const { code, stderr } = await refused.exit
  t.is(code, 75)
  t.regex(
    JSON.parse(stderr).error.message,
    new RegExp(`^Process ${first.child.pid} is the store at ${path} already\\. `)
  )
  const second = daemon(path, ['--takeover'])
  t.like(await second.said('started'), { predecessor: first.child.pid, names: 1, descriptors: 1 })
  t.like(await first.said('superseded'), { successor: second.child.pid })
  t.like(await first.exit, { code: 0 })
  // USR2 starts the same command line again
  second.child.kill('SIGUSR2')
  const { successor } = await second.said('superseded')
  t.deepEqual(
    (await client.list()).map(({ name }) => name),
    ['a']
  )
  t.is(client.peer!.pid, successor as number)
  process.kill(client.peer!.pid, 'SIGTERM')
  // The successor has its stderr, too
  t.like(await second.exit, { code: 0 })
})

testInCi('USR2 does not end a store that can not be followed, nor one whose successor fails', async t => {
  const path = socketPath()
  const store = daemon(path)
  await store.said('started')
  store.child.kill('SIGUSR2')
  t.regex((await store.said('upgrade')).text, /^USR2 starts a successor only if the command line has --takeover$/)
  store.child.kill()
  t.like(await store.exit, { code: 0 })

  const config = `${socketPath()}.json`
  writeFileSync(config, '{}')
  const other = daemon(path, ['--takeover', '--config', config])
  await other.said('started')
  writeFileSync(config, '{')
  other.child.kill('SIGUSR2')
  t.regex((await other.said('upgrade')).text, /has ended before it served\. This process goes on$/)
  other.child.kill('SIGINT')
  t.like(await other.exit, { code: 0 })
})

testInCi('a signal while it waits for its predecessor', async t => {
  const path = socketPath()
  const first = daemon(path)
  await first.said('started')
  process.kill(first.child.pid!, 'SIGSTOP')
  const waiting = daemon(path, ['--takeover'])
  await until(() => handlesHangup(waiting.child.pid!), 'it handles signals')
  waiting.child.kill('SIGTERM')
  t.like(await waiting.exit, { code: 143, stderr: '' })
  process.kill(first.child.pid!, 'SIGCONT')
  first.child.kill()
  t.like(await first.exit, { code: 0 })
})

testInCiIf(
  missing(UNSHARE, 'util-linux'),
  'as PID 1 of a container it outlives its successor, and passes TERM on to it',
  async t => {
    const path = socketPath()
    const namespace = ['--pid', '--fork', '--mount-proc', '--kill-child']
    const first = daemon(path, ['--takeover'], {}, [UNSHARE, ...namespace])
    t.like(await first.said('started'), { pid: 1 })
    const [init] = childrenOf(first.child.pid!)
    // The successor is in the container, too, and writes to the same stderr
    process.kill(init!, 'SIGUSR2')
    await using client = await connectStore(path)
    await client.put('a', Descriptor.openSync('/dev/null'))
    const { successor } = await first.said('superseded')
    // At once: it still ends as a store
    process.kill(init!, 'SIGTERM')
    t.like(await first.said('stopping'), { names: 1 })
    t.like(await first.exit, { code: 0 })
    t.true((successor as number) > 1)
  }
)

test('what the service manager hears: ready, the status, and the end of the last one only', async t => {
  await using notifications = await NotifySocket.open()
  const path = socketPath()
  const heard = new Map<number, Map<string, string>[]>()
  const listenTo = (pid: number): void => {
    heard.set(pid, [])
    notifications.watch(pid, fields => heard.get(pid)!.push(new Map(fields)))
  }
  const says = async (pid: number, field: string, value: string): Promise<void> =>
    until(() => heard.get(pid)!.some(fields => fields.get(field) === value), `${field}=${value}`)
  const env = { NOTIFY_SOCKET: notifications.address }
  const first = daemon(path, ['--takeover'], env)
  listenTo(first.child.pid!)
  await says(first.child.pid!, 'READY', '1')
  await says(first.child.pid!, 'STATUS', '0 names, 0 descriptors')
  await using client = await connectStore(path)
  await client.put('a', [Descriptor.openSync('/dev/null'), Descriptor.openSync('/dev/null')])
  await says(first.child.pid!, 'STATUS', '1 name, 2 descriptors')
  const second = daemon(path, ['--takeover'], env)
  listenTo(second.child.pid!)
  await says(second.child.pid!, 'READY', '1')
  await says(second.child.pid!, 'STATUS', '1 name, 2 descriptors')
  t.like(await first.exit, { code: 0 })
  second.child.kill()
  await says(second.child.pid!, 'STOPPING', '1')
  t.like(await second.exit, { code: 0 })
  t.false(heard.get(first.child.pid!)!.some(fields => fields.has('STOPPING')))
})

testInCiIf(
  process.getuid!() === 0 ? undefined : 'only root can be another user',
  '(u) the mode lets other users in, and the rules and quotas of a configuration decide',
  async t => {
    const folder = mkdtempSync(join(tmpdir(), 'passfd-public-'))
    chmodSync(folder, 0o755)
    const path = join(folder, 'socket')
    const config = join(folder, 'store.json')
    const rules = [
      { user: '*', read: true, write: true },
      { user: '*', owner: 0, names: 'shared*', read: true }
    ]
    writeFileSync(config, JSON.stringify({ mode: '0666', rules, quotas: { [NOBODY]: { names: 1 } } }))
    const store = daemon(path, ['--config', config])
    await store.said('started')
    await using client = await connectStore(path)
    for (const name of ['shared', 'own']) await client.put(name, Descriptor.openSync('/dev/null'))
    const asNobody = async (...args: string[]): Promise<{ code: number | null; out: string[] }> => {
      const running = start(process.execPath, [command, 'store', '--socket', path, ...args], {
        uid: NOBODY,
        gid: NOBODY
      })
      const out: string[] = []
      for (;;) {
        const line = await running.line().catch(() => undefined)
        if (line === undefined) break
        out.push(line)
      }
      return { code: (await running.exit).code, out }
    }
    t.deepEqual(await asNobody('list', '--names'), { code: 0, out: ['shared'] })
    t.is((await asNobody('copy', 'own', '--owner', '0', '--', 'true')).code, 77)
    t.is((await asNobody('copy', 'shared', '--owner', '0', '--', 'true')).code, 0)
    t.is((await asNobody('remove', 'shared', '--owner', '0')).code, 77)
    t.is((await asNobody('put', 'mine', '--file', '/dev/null')).code, 0)
    t.is((await asNobody('put', 'more', '--file', '/dev/null')).code, 75)
    store.child.kill()
    await store.exit
    rmSync(folder, { recursive: true })
  }
)
