// In CI only: it needs namespaces, and starts a process for each surroundings.
/** What works in surroundings that lack something, and what the error says of the rest: docs/platforms.md. */
import { chmodSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inC } from '../helpers/in-c.ts'
import { temporaryPath } from '../helpers/path.ts'
import { outputOf, start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { testInCi, testInCiIf } from '../helpers/test.ts'

const everything = fileURLToPath(new URL('../fixtures/everything.mjs', import.meta.url))
const UNSHARE = '/usr/bin/unshare'
const [ENOSYS, EPERM] = [38, 1]

interface Told {
  result?: unknown
  code?: string
  message?: string
}

/** Everything that fails, by its name; and all warnings. */
interface Failures {
  failed: Record<string, Told>
  stderr: string
  worked: number
}

/** Starts everything.mjs after `before`, with Node's options. */
async function inside(before: string[], options: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Failures> {
  const folder = temporaryPath('surroundings')
  mkdirSync(join(folder, 'long'.repeat(30)), { recursive: true })
  chmodSync(folder, 0o777)
  chmodSync(join(folder, 'long'.repeat(30)), 0o777)
  const [command = '', ...args] = [...before, process.execPath, ...options, everything, folder]
  const running = start(command, args, { env: { ...process.env, ...env } })
  const [line] = await outputOf(running)
  const { stderr } = await running.exit
  if (line === undefined) throw new Error(stderr)
  const told: [string, Told][] = Object.entries(JSON.parse(line))
  const failed = told.filter(([, { result }]) => result === undefined)
  return { failed: Object.fromEntries(failed), stderr, worked: told.length - failed.length }
}

const mounted = (mount: string): string[] => [UNSHARE, '-m', 'sh', '-c', `${mount} && exec "$@"`, 'sh']
const filtered = (...calls: string[]): string[] => [inC('filtered'), ...calls, '--']
const permission = process.allowedNodeEnvironmentFlags.has('--permission')
  ? '--permission'
  : '--experimental-permission'
/** Newer versions of Node forbid connections, too. */
const net = process.allowedNodeEnvironmentFlags.has('--allow-net') ? ['--allow-net'] : []

testInCi('nothing is missing: all works', async t => {
  const { failed, worked, stderr } = await inside([])
  t.deepEqual(failed, {})
  t.is(worked, 17)
  t.is(stderr, '')
})

// --- calls of the system that a filter refuses

/** By Docker of some years ago, and others (seccomp(2)): calls that are newer than the filter. */
const NEWER = ['statx', 'close_range', 'pidfd_open', 'pidfd_send_signal', 'preadv2', 'pwritev2']

for (const error of [ENOSYS, EPERM])
  testInCi(
    `a filter that refuses newer calls of the system by ${error === EPERM ? 'EPERM' : 'ENOSYS'}: all works`,
    async t => {
      const { failed, stderr } = await inside(filtered(...NEWER.map(call => `${call}=${error}`)))
      t.deepEqual(failed, {}, stderr)
    }
  )

testInCi('a filter that refuses memfd_create: the error names it', async t => {
  const { failed } = await inside(filtered(`memfd_create=${ENOSYS}`))
  t.deepEqual(Object.keys(failed).sort(), ['kinds', 'memory', 'read-only memory', 'store'])
  for (const { code, message } of Object.values(failed)) {
    t.is(code, 'ENOSYS')
    t.regex(message!, /memfd_create/)
  }
})

testInCi(
  'a filter that forbids socket() and allows socketpair(): pairs work, the error of the rest names socket',
  async t => {
    const { failed, worked } = await inside(filtered(`socket=${EPERM}`))
    t.deepEqual(Object.keys(failed).sort(), [
      ...['abstract', 'datagrams', 'inject', 'long', 'owner', 'path', 'prefork', 'store', 'stream', 'takeover']
    ])
    t.is(worked, 7)
    for (const [name, { code, message }] of Object.entries(failed)) {
      t.is(code, 'EPERM', `${name}: ${message}`)
      t.regex(message!, name === 'inject' ? /listen/ : /EPERM: operation not permitted, socket/) // the test's own server
    }
  }
)

// --- file systems that a container may lack

const noMounts = missing(UNSHARE, 'util-linux')

testInCiIf(noMounts, 'without /proc: what needs it names it', async t => {
  const { failed, worked } = await inside(mounted('mount -t tmpfs none /proc'))
  t.deepEqual(Object.keys(failed).sort(), ['long', 'owner', 'read-only memory'])
  t.is(worked, 14)
  for (const { code, message } of Object.values(failed)) {
    t.is(code, 'ERR_PASSFD_PROC', message)
    t.regex(message!, /needs \/proc, which is not mounted here\. Mount it: mount -t proc proc \/proc/)
  }
})

testInCiIf(noMounts, 'without /proc a deleted file of a tmpfs is a file, and memory is memory', async t => {
  const script = `import { openSync, rmSync } from 'node:fs'
    import { Descriptor } from '${new URL('../../build/dist/index.js', import.meta.url)}'
    const fd = openSync('/proc/deleted', 'wx+') // in the tmpfs that is mounted there
    rmSync('/proc/deleted')
    const all = [Descriptor.adopt(fd), Descriptor.memfd(), Descriptor.memfd('sealed', { size: 1, seals: ['shrink'] })]
    console.log(all.map(({ kind }) => kind).join())`
  const [command = '', ...args] = mounted('mount -t tmpfs none /proc')
  const running = start(command, [...args, process.execPath, '--input-type=module', '-e', script])
  t.deepEqual(await outputOf(running), ['file,memfd,memfd'])
})

testInCiIf(noMounts, 'without /dev: all but workers, whose stdin is /dev/null', async t => {
  const { failed } = await inside(mounted('mount -t tmpfs none /dev'))
  t.deepEqual(Object.keys(failed), ['prefork'])
  t.regex(failed.prefork!.message!, /ENOENT: no such file or directory, open '\/dev\/null'/)
})

for (const [what, mount] of [
  ['/proc/sys', 'mount -t proc -o subset=pid none /proc'],
  ["other users' processes in /proc", 'mount -t proc -o hidepid=2 none /proc'],
  ['/sys', 'mount -t tmpfs none /sys']
] as const)
  testInCiIf(noMounts, `without ${what}: all works`, async t => {
    const { failed, stderr } = await inside(mounted(mount))
    t.deepEqual(failed, {}, stderr)
  })

testInCi('without a folder for temporary files: all works', async t => {
  const { failed, stderr } = await inside([], [], { TMPDIR: '/does/not/exist' })
  t.deepEqual(failed, {}, stderr)
})

// --- namespaces of users

testInCiIf(noMounts, 'as root of a user namespace: all works', async t => {
  const { failed, stderr } = await inside([UNSHARE, '--user', '--map-root-user'])
  t.deepEqual(failed, {}, stderr)
})

testInCiIf(
  noMounts,
  'in a user namespace without a user of its own: all but giving a socket file to a user',
  async t => {
    const { failed, stderr } = await inside([UNSHARE, '--user'])
    t.deepEqual(Object.keys(failed), ['owner'], stderr)
    t.is(failed.owner!.code, 'EINVAL')
    t.regex(failed.owner!.message!, /chown '.*\/owned'/)
  }
)

// --- Node's permission model

testInCi('the permission model, with all that passfd needs: all but giving a socket file to a user', async t => {
  const allowed = ['--allow-fs-read=*', '--allow-fs-write=/tmp', '--allow-addons', '--allow-child-process', ...net]
  const { failed, stderr } = await inside([], [permission, ...allowed])
  t.deepEqual(Object.keys(failed), ['owner'], stderr)
  t.is(failed.owner!.code, 'ERR_ACCESS_DENIED')
})

for (const [folder, isAllowed] of [
  ['a folder for temporary files that is allowed', true],
  ['no such folder', false]
] as const)
  testInCi(`the permission model with ${folder}: injectInto() leaves nothing in it`, async t => {
    const temporary = temporaryPath('temporary')
    mkdirSync(temporary)
    // Where the socket is bound on which the server listens, as the kernel has it
    const script = `import { readFileSync, readlinkSync } from 'node:fs'
      import { createServer } from 'node:http'
      import { Connection, Descriptor } from '${new URL('../../build/dist/index.js', import.meta.url)}'
      const [end, other] = Descriptor.socketpair()
      const server = createServer()
      const socket = new Connection(end).injectInto(server)
      const [inode] = /\\d+/.exec(readlinkSync('/proc/self/fd/' + server._handle.fd))
      console.log(server.listening, new RegExp(' ' + inode + ' (\\\\S)', 'm').exec(readFileSync('/proc/self/net/unix', 'latin1'))?.[1])
      socket.destroy()
      other.close()
      server.close()`
    const write = isAllowed ? [`--allow-fs-write=${temporary}/`] : []
    const options = [permission, '--allow-fs-read=*', '--allow-addons', ...write, ...net]
    const args = [...options, '--input-type=module', '-e', script]
    const running = start(process.execPath, args, { env: { ...process.env, TMPDIR: temporary } })
    t.deepEqual(await outputOf(running), [`true ${isAllowed ? '/' : '@'}`])
    t.is((await running.exit).code, 0)
    t.deepEqual(readdirSync(temporary), [])
  })

testInCi('the permission model without --allow-child-process: the error of a worker names it', async t => {
  const allowed = ['--allow-fs-read=*', '--allow-fs-write=*', '--allow-addons', ...net]
  const { failed } = await inside([], [permission, ...allowed])
  t.deepEqual(Object.keys(failed), ['prefork'])
  t.regex(failed.prefork!.message!, /--allow-child-process/)
})

testInCi(
  'the permission model without --allow-fs-write: a warning names the socket file that stays, and the process goes on',
  async t => {
    const allowed = ['--allow-fs-read=*', '--allow-addons', '--allow-child-process', ...net]
    const { failed, stderr } = await inside([], [permission, ...allowed])
    t.deepEqual(Object.keys(failed), ['owner'], stderr)
    t.regex(stderr, /ERR_PASSFD_SOCKET_FILE_LEFT.*\/web can't be removed: Access to this API has been restricted/)
  }
)
