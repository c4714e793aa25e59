import { readFileSync } from 'node:fs'
import { version } from '../../src/base/version.ts'
import { peerOf, sameUserOrRoot } from '../../src/descriptor/peer.ts'
import { connect, Descriptor, listen, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected } from '../helpers/channels.ts'
import { socketPath } from '../helpers/path.ts'
import { startFixture } from '../helpers/process.ts'
import { NOBODY, publicPath } from '../helpers/public.ts'
import { test } from '../helpers/test.ts'

const nobody = { pid: 1, gid: 0, groups: [], agent: '' }

test('both ends of a pair know who made it', async t => {
  const [left, right] = await connected()
  const [, listed = ''] = /^Groups:(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  const groups = listed.split(/\s+/).filter(Boolean).map(Number)
  for (const { peer } of [left, right]) {
    t.like(peer, { pid: process.pid, uid: process.getuid!(), gid: process.getgid!(), agent: `passfd/${version}` })
    t.deepEqual(peer.groups, groups)
  }
  await closeAll(left, right)
})

test('before the hello there is a peer without an agent', t => {
  const [channel, end] = pair()
  t.is(channel.peer.pid, process.pid)
  t.is(channel.peer.agent, '')
  channel.destroy()
  end.close()
})

test('a server and its clients know each other’s process, user and groups', async t => {
  const path = publicPath()
  const server = await listen(path, { authorize: () => true, mode: 0o666 })
  server.serve(({ channel }) => channel.peer)
  // 100 groups are more than a first look makes room for
  const groups = Array.from({ length: 100 }, (_, index) => 1000 + index)
  const all = [[], [7], groups]
  const child = startFixture('who', [`${NOBODY}`, '65533', all.map(own => own.join(',')).join(';'), path])
  for (const own of all) {
    const { mine, yours } = JSON.parse(await child.line())
    t.deepEqual(mine.groups, own)
    t.like(mine, { pid: child.child.pid, uid: NOBODY, gid: 65533, agent: `passfd/${version}` })
    t.like(yours, { pid: process.pid, uid: 0, gid: 0, agent: `passfd/${version}` })
  }
  t.like(await child.exit, { code: 0, stderr: '' })
  await server.close()
})

test('ids are unsigned', t => {
  const descriptors = Descriptor.socketpair()
  const { peer } = native
  native.peer = (_, out) => {
    out.set([42, -2, -3, 1, -4])
    return 1
  }
  t.like(peerOf(descriptors[0].borrow()), { pid: 42, uid: 0xfffffffe, gid: 0xfffffffd, groups: [0xfffffffc] })
  native.peer = peer
  for (const descriptor of descriptors) descriptor.close()
})

test('by default the same user and root are let in', t => {
  const uid = process.geteuid!()
  t.true(sameUserOrRoot({ ...nobody, uid }))
  t.true(sameUserOrRoot({ ...nobody, uid: 0 }))
  t.false(sameUserOrRoot({ ...nobody, uid: uid + 1 }))
  t.false(sameUserOrRoot({ ...nobody, uid: NOBODY }))
})

test('the user is the effective one, at the time of the check', t => {
  process.seteuid!(NOBODY)
  try {
    t.true(sameUserOrRoot({ ...nobody, uid: NOBODY }))
    t.false(sameUserOrRoot({ ...nobody, uid: 65533 }))
    t.true(sameUserOrRoot({ ...nobody, uid: 0 }))
  } finally {
    process.seteuid!(0)
  }
})

test('trap 29: clients of a listener that was handed over see its new owner', async t => {
  const path = socketPath()
  const listener = await Descriptor.bind({ path })
  const before = await connectAndLook(path)
  t.is(before, process.pid)
  const child = startFixture('listen-on-3', [], { stdio: ['pipe', 'pipe', 'pipe', listener.borrow()] })
  t.is(await child.line(), 'listening')
  const channel = await connect(path)
  t.is(channel.peer.pid, child.child.pid!)
  t.is(await channel.request('who?'), child.child.pid!)
  // Who holds it besides is none of the clients' business
  listener.close()
  await channel.close()
  child.child.stdin!.end()
  t.like(await child.exit, { code: 0, stderr: '' })
})

/** Whom a client sees of a listener from which nobody accepts. */
async function connectAndLook(path: string): Promise<number> {
  const fd = native.socket(1)
  native.connect(fd, Buffer.from(path))
  const { pid } = peerOf(fd)
  native.close(fd)
  return pid
}
